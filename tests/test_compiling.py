"""Searches and what is made of them under torch.compile, whole, with their gradients.

They run in one process of their own: the checks of annotations that tests run with are not traceable, and importing
torch and its compiler takes longer than all of the programs.
"""

import json
import subprocess
import sys
import traceback

import pytest

PROGRAMS = {
    "triangle_bvh": """
import torch
from headfields.ops.triangle_bvh import TriangleBVH

faces = torch.tensor([[0, 1, 2], [2, 1, 3], [3, 1, 4], [0, 0, 1]])
vertices, points, index = torch.randn(2, 5, 3), torch.randn(8, 3), torch.arange(8) % 2
bvh = TriangleBVH(faces, vertices)

def run(points, vertices):
    bvh.refit(vertices)
    closest, ray = bvh.closest(points, index), bvh.raycast(points, 0.3 - points, index)
    near, far = bvh.interval(points, torch.nn.functional.normalize(-points, dim=-1), 0.5, index)
    seen = torch.where(ray.face >= 0, ray.distance, 0.0) + torch.where(near <= far, far - near, 0.0)
    return (closest.distance + seen).sum()

compiled, results = torch.compile(run, fullgraph=True, backend="aot_eager"), []
compiled(points, vertices)
for function in (run, compiled):
    p, v = points.clone().requires_grad_(), vertices.clone().requires_grad_()
    value = function(p, v)
    results.append((value.detach(), *torch.autograd.grad(value, (p, v))))
torch.testing.assert_close(*results)
""",
    "nearest_vertices": """
import torch
from headfields.ops import VertexTree
from headfields.ops.nearest_vertices import inverse_distance_weights

vertices, points, index = torch.randn(2, 9, 3), torch.randn(8, 3), torch.arange(8) % 2
tree = VertexTree(vertices)

def run(points, vertices):
    distance = tree.refit(vertices).nearest(points, 3, index).distance
    return (inverse_distance_weights(distance) * torch.arange(3) + distance).sum()

compiled, results = torch.compile(run, fullgraph=True, backend="aot_eager"), []
compiled(points, vertices)
for function in (run, compiled):
    p, v = points.clone().requires_grad_(), vertices.clone().requires_grad_()
    value = function(p, v)
    results.append((value.detach(), *torch.autograd.grad(value, (p, v))))
torch.testing.assert_close(*results)
""",
    "vertex_features": """
import torch
from tests.encoders.test_vertex_features import FACES, VERTICES, at, make, near, state

encoder, canonical, frames = make(frame="triangle", faces=FACES, rest_vertices=VERTICES), at(near(6)), state()
encoder.prepare(frames)  # builds the tree, on the CPU

def run(points):
    return encoder(canonical.replace(points=points), encoder.prepare(frames)).square().sum()

compiled, points = torch.compile(run, fullgraph=True, backend="aot_eager"), canonical.points.clone()
points.requires_grad_()
torch.testing.assert_close(*(torch.autograd.grad(function(points), points) for function in (run, compiled)))
""",
}


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """The traceback of each program that failed."""
    return failures_of("triangle_bvh", "vertex_features")


def failures_of(*names: str) -> dict[str, str]:
    command = [sys.executable, "-m", "tests.test_compiling", *names]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    result: dict[str, str] = json.loads(run.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", ["triangle_bvh", "vertex_features"])
def test_compiles_whole(failures: dict[str, str], name: str) -> None:
    assert failures[name] == ""


@pytest.mark.slow
def test_the_tree_alone_compiles_whole() -> None:
    """What `vertex_features` has a part of."""
    assert failures_of("nearest_vertices") == {"nearest_vertices": ""}


def main() -> None:
    results = dict.fromkeys(sys.argv[1:], "")
    for name in results:
        try:
            exec(PROGRAMS[name], {"__name__": name})
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
