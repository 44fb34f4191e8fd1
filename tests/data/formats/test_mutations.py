"""Every file and field of a capture broken in turn: refused by name, or tolerated for a reason that is written here.

A mutation must end in one of three ways: a `CaptureError` that names the frame (or file), the field and the remedy; the
same capture as before, bit for bit; or another one, and then `TOLERATED` says why, and what the report says of it.
"""

import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headfields.data import CaptureError, load_capture
from headfields.data.formats.insta_writer import write_insta
from tests.data.compare import differences, snapshot
from tests.data.mutations import edited, mutations
from tests.data.tiny import blob, tiny_frames

REMEDY = re.compile(r"expected|copy|export|remove|[Cc]heck|correct|write|move|add|is needed")

SAME = None
# Names of mutations (a pattern), why they are tolerated, and: SAME if the capture is the same bit for bit, else what
# the report says of it, or "" if nothing can tell it from what is right. docs/captures.md says the same to users.
TOLERATED = [
    # The same content in another form.
    (r"(meshes/00001|canonical)\.obj: (a quad|comments and CRLF)$", "polygons are cut into the same triangles", SAME),
    (r"\.txt: (separated by commas|blank lines|CRLF and byte order mark)$", "white space and commas separate", SAME),
    (r"seg_mask/00001\.png: (RGB|L|LA|palette)$", "a label is the red channel, or the one channel", SAME),
    (r"_path: (with backslashes|with a dot|with a detour)$", "paths are normalized", SAME),
    (r"^file_path: without extension$", "images listed without extension are PNG, as NeRF's files have them", SAME),
    (r"^transform_matrix of one frame: 3x4$", "the last row of a pose says nothing", SAME),
    (r"^transform_matrix of all frames: in OpenGL axes$", "either convention is read", r"OpenGL axes \("),
    (r"^transform_matrix of all frames: inverted$", "either convention is read", r"world-to-camera, OpenCV axes \("),
    (r"^frames: (frames unsorted|byte order mark)$", "frames are sorted by mesh_path", SAME),
    (r"^all frames: images without alpha$", "mattes come from the labels", "images have no alpha"),
    # What is missing follows from the rest.
    (r"^transforms\.json: (missing|a folder)$", "it lists what the splits' files list", SAME),
    (r"^transforms_(train|test|val)\.json: (missing|a folder)$", "the rest says it", r"no transforms_\w+\.json: "),
    (r"^frames: only transforms\.json$", "the last fifth are test", "no transforms_train.json or"),
    (r"^(w|h|x_fov|fl_x): absent$", "images have a size, fl_x and x_fov say the same", SAME),
    (r"^integer_depth_scale: absent$", "the format's millimeters", "no integer_depth_scale"),
    (r"^(fl_y|cx|cy): absent$", "square pixels, the image's middle", "no (fl_y|cx|cy): "),
    # Optional files are optional.
    (r"^(depth|seg_mask|landmarks|flame/exp)/.*: (missing|a folder)$", "optional", "1 of 3 frames have no .*png"),
    (r"^(exp|depth|seg_mask|landmark)_path: (absent|null)$", "optional", r"1 of 3 frames have no "),
    (r"^(exp|depth|seg_mask|landmark)_path: (a string|a folder|with a null byte|too long|with a lone surrogate|"
     r"without extension)$", "optional", "warning: 1 optional files that the frames name do not exist"),
    (r"^frames: (train|test|val) empty$", "training or evaluating it says so", r"split \w+ has no frames"),
    (r"^landmarks/00001\.txt: nan$", "NaN is a landmark that is hidden, as in views from behind", ""),
    # Suspect, not impossible: a warning.
    (r"^frames: a frame in train and test$", "for a try on one set", "warning: 1 frames are in both train and test"),
    (r"^all frames: labels shifted$", "parsers err", r"warning: segmentation labels are .* 3 of 3 .* -6\.0 pixels to"),
    (r"^all frames: images shifted$", "trackers err", r"warning: the mesh is shifted .* 3 of 3 .* -6\.0 pixels to"),
    (r"^depth/00001\.png: (16 bits|32-bit integers)$", "units are unknown", r"warning: the mesh explains \d% of the"),
    (r"^all frames: depth (in meters|of nothing)$", "0 is for none", "warning: depth_path is 0 everywhere in 3 of 3"),
    (r"^(all frames: labels (of another|0 and 255)|seg_mask/00001\.png: JPEG)", "numbers", "warning: seg_mask_path ho"),
    (r"^all frames: mattes empty$", "a frame may show nothing", "warning: the matte is empty in 3 of 3 frames"),
    (r"^all frames: mattes full$", "an image may be all head", "warning: the matte covers all of the image in 3 of 3"),
    # Nothing tells these from what they might be.
    (r"^(mesh|exp|depth|seg_mask|landmark)_path: of another frame$", "frames may share files", ""),
    (r"^canonical\.obj: far away$", "canonical space may lie anywhere", ""),
    (r"^all frames: (meshes|expressions|images) of two frames swapped$", "as plausible as before", ""),
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest capture with everything in it: three frames, every optional file, every key."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    write_insta(folder, tiny_frames(3), *blob(), test_frames=1)
    edited(lambda content: content.update(x_fov=math.degrees(2 * math.atan(20 / 120))))(folder)
    return folder


def judged(base: Path, work: Path, part: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Mutations with an outcome that is not allowed, and the outcome."""
    untouched = load_capture(base)
    before, known = snapshot(untouched), set(untouched.report)
    for mutation in mutations(base):
        if not part(mutation.name):
            continue
        folder = Path(shutil.copytree(base, work / "tiny"))
        mutation.apply(folder)
        why = next((row for row in TOLERATED if re.search(row[0], mutation.name)), None)
        try:
            capture = load_capture(folder)
            capture.validate()
            changed = differences(before, snapshot(capture))
            said = "\n".join(line for line in capture.report if line not in known)
            if why is None:
                yield mutation.name, f"not refused; changed are {changed[:3]}, the report says {said!r}"
            elif why[2] is SAME and changed:
                yield mutation.name, f"changed are {changed[:3]}, though {why[1]}"
            elif why[2] is not SAME and not re.search(why[2], said):
                yield mutation.name, f"the report says {said!r}, not {why[2]!r}"
        except CaptureError as error:
            text = str(error).replace(str(work), "")
            if why is not None:
                yield mutation.name, f"refused, though {why[1]}: {text}"
            elif missing := [name for name in mutation.names if name not in text]:
                yield mutation.name, f"the error does not name {missing}: {text}"
            elif not mutation.names or not REMEDY.search(text):
                yield mutation.name, f"the error names no remedy: {text}"
        except Exception as error:
            yield mutation.name, f"{type(error).__name__}: {error}"
        shutil.rmtree(folder)


GROUPS = ("files", "images", "meshes", "numbers", "keys", "paths", "matrices", "frames", "all frames")


def group(name: str) -> str:
    """Which of `GROUPS` a mutation belongs to."""
    start, _, what = name.partition(": ")
    if start in ("frames", "all frames"):
        return start
    if start.startswith("transform_matrix of"):
        return "matrices"
    if what in ("missing", "empty", "half", "random bytes", "a folder", "a bit flipped") and "." in start:
        return "files"
    if "." in start:
        return {".obj": "meshes", ".png": "images", ".txt": "numbers"}[Path(start).suffix]
    return "keys" if what not in PATH_FORMS else "paths"


PATH_FORMS = (
    "empty", "absolute", "of Windows, absolute", "leading out", "leading out and back", "a folder", "with a null byte",
    "too long", "with a lone surrogate", "with backslashes", "with a dot", "with a detour", "without extension",
    "of another frame",
)  # fmt: skip


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("part", GROUPS)
def test_refused_by_name_or_tolerated_for_a_reason(base: Path, tmp_path: Path, part: str, every: int) -> None:
    order = {mutation.name: place for place, mutation in enumerate(mutations(base))}
    failures = list(judged(base, tmp_path, lambda name: group(name) == part and order[name] % every == 0))
    assert not failures, "\n".join(f"{name}: {what}" for name, what in failures)


def test_the_table_is_whole(base: Path) -> None:
    """Every file and key is broken, no two mutations are called the same, every group and tolerance is in use."""
    names = [mutation.name for mutation in mutations(base)]
    assert len(names) == len(set(names)) > 400
    assert {group(name) for name in names} == set(GROUPS)
    for path in base.rglob("*"):
        if path.is_file():
            assert f"{path.relative_to(base)}: half" in names
    unused = [pattern for pattern, _, _ in TOLERATED if not any(re.search(pattern, name) for name in names)]
    assert not unused
