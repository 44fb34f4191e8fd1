"""What an import brings along: `import headfields` and the core's namespaces leave slow libraries to their users."""

import json
import subprocess
import sys

# Between a tenth of a second and two each; whoever needs one imports it in the function that does.
SLOW = (
    "scipy.sparse", "scipy.ndimage", "scipy.spatial", "scipy.stats", "warp", "trimesh", "lightning_fabric",
    "matplotlib", "imageio_ffmpeg", "tyro", "viser", "sympy", "torch._dynamo", "torch._inductor",
)  # fmt: skip
CODE = """
import json, sys
import headfields as hf
first = len(sys.modules), "torch" in sys.modules, "numpy" in sys.modules
for name in ("ops", "Avatar", "losses", "models", "data", "training", "viz"):
    getattr(hf, name)
hf.training.train
import torch
points, grid = torch.rand(9, 3, requires_grad=True), hf.ops.HashGridLayout(2, 2, 4, 4, 8)
hf.ops.knn(points.detach(), points.detach(), 2)
hf.ops.hash_grid(points, torch.rand(grid.entries, 2), grid).sum().backward()
print(json.dumps([*first, [name for name in sys.argv[1:] if name in sys.modules]]))
"""


def test_slow_libraries_are_imported_where_they_are_used() -> None:
    bare = subprocess.run([sys.executable, "-c", "import sys; print(len(sys.modules))"], capture_output=True, text=True)
    done = subprocess.run([sys.executable, "-c", CODE, *SLOW], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    count, torch, numpy, slow = json.loads(done.stdout.splitlines()[-1])
    assert not torch and not numpy, "`import headfields` alone waits for no library: its names are imported when used"
    assert count - int(bare.stdout) < 60
    assert not slow, f"imported by a namespace of the core, or by a first operation: {', '.join(slow)}"
