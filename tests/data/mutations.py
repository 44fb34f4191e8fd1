"""Ways to break a capture, made from its own content: file × mutation, key × value, and several files at once."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Change = Callable[[Path], None]
FRAME = 1  # the frame whose fields are broken
PATHS = {
    "file_path": "images", "mesh_path": "meshes", "exp_path": "flame/exp", "depth_path": "depth",
    "seg_mask_path": "seg_mask", "landmark_path": "landmarks",
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """`apply` breaks a copy of the capture; an error must hold each of `names`."""

    name: str
    apply: Change
    names: tuple[str, ...]


def mutations(folder: Path) -> Iterator[Mutation]:
    """All mutations of the capture in `folder`, which is only read."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield from _of_file(path.relative_to(folder))
    for key, place in PATHS.items():
        if key in ("file_path", "depth_path", "seg_mask_path"):
            yield from _of_image(key, f"{place}/0000{FRAME}.png")
        elif key == "mesh_path":
            yield from _of_mesh(f"{place}/0000{FRAME}.obj", (f"images/0000{FRAME}.png", key))
        else:
            yield from _of_numbers(key, f"{place}/0000{FRAME}.txt")
    yield from _of_mesh("canonical.obj", ("canonical.obj",))
    content = json.loads((folder / "transforms.json").read_text())
    for key in content:
        if key != "frames":
            yield from _of_key(key, everywhere=True)
    for key in content["frames"][FRAME]:
        yield from _of_key(key, everywhere=False)
    yield from _of_paths()
    yield from _of_matrix()
    yield from _of_lists()
    yield from _of_several()


def _of_file(path: Path) -> Iterator[Mutation]:
    names: tuple[str, ...] = (path.name,)
    for key, place in PATHS.items():
        if path.parent == Path(place):
            names = (f"images/{path.stem}.png", key)
    random = np.random.default_rng(3).integers(0, 256, 700, dtype=np.uint8).tobytes()

    def flipped(folder: Path) -> None:
        data = bytearray((folder / path).read_bytes())
        data[len(data) // 2] ^= 0x10
        (folder / path).write_bytes(data)

    def folder_instead(folder: Path) -> None:
        (folder / path).unlink()
        (folder / path).mkdir()

    def half(folder: Path) -> None:
        data = (folder / path).read_bytes()
        (folder / path).write_bytes(data[: len(data) // 2])

    for name, change in {
        "missing": lambda folder: (folder / path).unlink(),
        "empty": lambda folder: (folder / path).write_bytes(b""),
        "half": half,
        "random bytes": lambda folder: (folder / path).write_bytes(random),
        "a folder": folder_instead,
    }.items():
        yield Mutation(f"{path}: {name}", change, names)
    if path.suffix == ".png":
        yield Mutation(f"{path}: a bit flipped", flipped, names)


def _of_image(key: str, path: str) -> Iterator[Mutation]:
    def saved(change: Callable[[np.ndarray], Any], format: str = "PNG") -> Change:
        def apply(folder: Path) -> None:
            result = change(np.array(Image.open(folder / path)))
            (result if isinstance(result, Image.Image) else Image.fromarray(result)).save(folder / path, format)

        return apply

    def rgb(pixels: np.ndarray) -> np.ndarray:
        return pixels[..., :3] if pixels.ndim == 3 else np.stack([pixels.astype(np.uint8)] * 3, axis=-1)

    def gray(pixels: np.ndarray) -> np.ndarray:
        return rgb(pixels)[..., 0]

    for name, change in {
        "another size": saved(lambda p: p[1:]),
        "turned": saved(lambda p: np.rot90(p).copy()),
        "RGB": saved(rgb),
        "L": saved(gray),
        "LA": saved(lambda p: Image.fromarray(gray(p)).convert("LA")),
        "16 bits": saved(lambda p: gray(p).astype(np.uint16) * 256),
        "palette": saved(lambda p: Image.fromarray(rgb(p)).quantize(64)),
        "1 bit": saved(lambda p: gray(p) > 127),
        "32-bit integers": saved(lambda p: Image.fromarray(gray(p).astype(np.int32)), "TIFF"),
        "float": saved(lambda p: Image.fromarray(gray(p).astype(np.float32) / 1000), "TIFF"),
        "JPEG": saved(rgb, "JPEG"),
    }.items():
        yield Mutation(f"{path}: {name}", change, (f"images/0000{FRAME}.png", key))


def _of_mesh(path: str, names: tuple[str, ...]) -> Iterator[Mutation]:
    def lines(change: Callable[[list[str], list[str]], Any]) -> Change:
        def apply(folder: Path) -> None:
            text = (folder / path).read_text().splitlines()
            vertices = [line for line in text if line.startswith("v ")]
            faces = [line for line in text if line.startswith("f ")]
            change(vertices, faces)
            (folder / path).write_text("\n".join([*vertices, *faces, ""]))

        return apply

    def points(change: Callable[[np.ndarray], np.ndarray]) -> Change:
        def apply(vertices: list[str], faces: list[str]) -> None:
            table = np.array([line.split()[1:] for line in vertices], np.float64)
            vertices[:] = ["v " + " ".join(map(repr, row)) for row in change(table).tolist()]

        return lines(apply)

    def one(row: int, value: float) -> Change:
        def change(table: np.ndarray) -> np.ndarray:
            table[row, 1] = value
            return table

        return points(change)

    def quads(vertices: list[str], faces: list[str]) -> None:
        pair = [line.split()[1:] for line in faces[:2]]
        faces[:2] = ["f " + " ".join([*pair[0], next(i for i in pair[1] if i not in pair[0])])]

    for name, change in {
        "NaN": one(5, float("nan")),
        "infinite": one(5, float("inf")),
        "beyond float32": one(5, 1e39),
        "huge": one(5, 1e30),
        "a vertex a meter off": one(5, 1.0),
        "a vertex less": lines(lambda v, f: v.pop()),
        "a vertex more": lines(lambda v, f: v.append("v 0 0 0")),
        "a word": lines(lambda v, f: v.__setitem__(4, "v 0 here 0")),
        "two coordinates": lines(lambda v, f: v.__setitem__(4, "v 0 0")),
        "one coordinate": lines(lambda v, f: v.__setitem__(4, "v 0")),
        "decimal commas": lines(lambda v, f: v.__setitem__(slice(None), [line.replace(".", ",") for line in v])),
        "faces in another order": lines(lambda v, f: f.reverse()),
        "corners in another order": lines(lambda v, f: f.__setitem__(3, "f " + " ".join(f[3].split()[:0:-1]))),
        "a face less": lines(lambda v, f: f.pop()),
        "no faces": lines(lambda v, f: f.clear()),
        "a quad": lines(quads),
        "face out of range": lines(lambda v, f: f.__setitem__(3, "f 1 2 9999")),
        "face of vertex 0": lines(lambda v, f: f.__setitem__(3, "f 0 1 2")),
        "face far out of range": lines(lambda v, f: f.__setitem__(3, f"f 1 2 {10**30}")),
        "face of words": lines(lambda v, f: f.__setitem__(3, "f a b c")),
        "face before the first": lines(lambda v, f: f.__setitem__(3, "f 1 2 -9999")),
        "millimeters": points(lambda table: table * 1000),
        "a point": points(lambda table: table * 0),
        "vertices in another order": points(lambda table: np.random.default_rng(0).permutation(table)),
        "far away": points(lambda table: table + 50),
        "comments and CRLF": lambda folder: (folder / path).write_bytes(
            b"# made by hand\r\n" + (folder / path).read_bytes().replace(b"\n", b"\r\n")
        ),
    }.items():
        yield Mutation(f"{path}: {name}", change, names)


def _of_numbers(key: str, path: str) -> Iterator[Mutation]:
    def lines(change: Callable[[list[str]], Any]) -> Change:
        def apply(folder: Path) -> None:
            text = (folder / path).read_text().splitlines()
            change(text)
            (folder / path).write_text("\n".join(text) + "\n")

        return apply

    def first(value: str) -> Change:
        return lines(lambda text: text.__setitem__(1, " ".join([value, *text[1].split()[1:]])))

    for name, change in {
        **{value: first(value) for value in ("nan", "inf", "-inf", "1e39", "1e30", "smile", "1_0", "0x1f", "1,5")},
        "decimal commas": lambda folder: (folder / path).write_text((folder / path).read_text().replace(".", ",")),
        "separated by commas": lambda folder: (folder / path).write_text(",".join((folder / path).read_text().split())),
        "a line less": lines(lambda text: text.pop()),
        "a line more": lines(lambda text: text.append(text[0])),
        "blank lines": lines(lambda text: text.insert(2, "\n\n  ")),
        "CRLF and byte order mark": lambda folder: (folder / path).write_bytes(
            b"\xef\xbb\xbf" + (folder / path).read_bytes().replace(b"\n", b"\r\n")
        ),
        "UTF-16": lambda folder: (folder / path).write_text((folder / path).read_text(), encoding="utf-16"),
    }.items():
        yield Mutation(f"{path}: {name}", change, (f"images/0000{FRAME}.png", key))


def edited(change: Callable[[dict[str, Any]], Any], only: str | None = None) -> Change:
    """Changes the content of all transforms files, or of one."""

    def apply(folder: Path) -> None:
        for path in sorted(folder.glob("transforms*.json")):
            if only is None or path.name == only:
                content = json.loads(path.read_text())
                change(content)
                path.write_text(json.dumps(content))

    return apply


def in_frame(change: Callable[[dict[str, Any]], Any], only: str | None = None) -> Change:
    """Changes the entry of the broken frame, identified by its mesh."""

    def apply(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            if frame["mesh_path"] == f"meshes/0000{FRAME}.obj":
                change(frame)

    return edited(apply, only)


def _of_key(key: str, everywhere: bool) -> Iterator[Mutation]:
    values = {
        "a string": "seven", "null": None, "a list": [1], "an object": {"a": 1}, "true": True, "negative": -3.0,
        "zero": 0, "NaN": float("nan"), "infinite": float("inf"), "huge": 1e300, "hundreds of digits": 10**400,
        "thousands of digits": "DIGITS",
    }  # fmt: skip
    target = edited if everywhere else in_frame
    names = (key,) if everywhere else (key, f"images/0000{FRAME}.png" if key != "file_path" else f"frames[{FRAME}]")

    def set_to(value: Any) -> Change:
        change = target(lambda entry: entry.__setitem__(key, value))
        if value != "DIGITS":
            return change

        def apply(folder: Path) -> None:
            change(folder)
            for path in folder.glob("transforms*.json"):
                path.write_text(path.read_text().replace('"DIGITS"', "9" * 5000))

        return apply

    for name, value in values.items():
        yield Mutation(f"{key}: {name}", set_to(value), ("transforms",) if value == "DIGITS" else names)
    yield Mutation(f"{key}: absent", target(lambda entry: entry.pop(key)), names)
    if key not in ("file_path", "mesh_path"):
        alone = (edited if everywhere else in_frame)(lambda e: e.__setitem__(key, 77), only="transforms_train.json")
        yield Mutation(f"{key}: another value in transforms_train.json", alone, (key, "transforms_train.json"))


def _of_paths() -> Iterator[Mutation]:
    for key, place in PATHS.items():
        suffix = {"file_path": ".png", "mesh_path": ".obj"}.get(
            key, ".png" if "mask" in key or "depth" in key else ".txt"
        )
        own = f"{place}/0000{FRAME}{suffix}"
        for name, value in {
            "empty": "",
            "absolute": f"/{own}",
            "of Windows, absolute": "C:\\" + own.replace("/", "\\"),
            "leading out": f"../{own}",
            "leading out and back": f"images/../../tiny/{own}",
            "a folder": place,
            "with a null byte": own + "\0",
            "too long": own + "x" * 5000,
            "with a lone surrogate": own + "\ud800",
            "with backslashes": own.replace("/", "\\"),
            "with a dot": f"./{own}",
            "with a detour": f"images/../{own}",
            "without extension": own.rsplit(".", 1)[0],
            "of another frame": f"{place}/00000{suffix}",
        }.items():
            change = in_frame(lambda frame, key=key, value=value: frame.__setitem__(key, value))
            frame = f"frames[{FRAME}]" if key == "file_path" else f"images/0000{FRAME}.png"
            yield Mutation(f"{key}: {name}", change, (key, frame) if name != "of another frame" else (key,))


def _of_matrix() -> Iterator[Mutation]:
    flip = np.diag([1.0, -1, -1, 1])
    turn = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])

    def entry(value: Any) -> Callable[[np.ndarray], Any]:
        def change(matrix: np.ndarray) -> Any:
            rows = matrix.tolist()
            rows[1][2] = value
            return rows

        return change

    def moved(*shift: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda matrix: matrix + np.array([[0, 0, 0, x] for x in shift] + [[0, 0, 0, 0]])

    for name, change in {
        **{
            f"an entry {value!r}": entry(value) for value in (float("nan"), float("inf"), "0", None, True, [0], 10**400)
        },
        "an entry 1e300": entry(1e300),
        "scaled": lambda m: m * [1.1, 1.1, 1.1, 1],
        "sheared": lambda m: m + np.eye(4, k=1) * 0.01 * (np.arange(4) < 2)[:, None],
        "mirrored": lambda m: m * [-1, 1, 1, 1],
        "zero": lambda m: m * 0,
        "transposed": lambda m: m.T,
        "3x3": lambda m: m[:3, :3],
        "flat": lambda m: m.reshape(-1),
        "ragged": lambda m: [[1, 2], [3]],
        "3x4": lambda m: m[:3],
        "in OpenGL axes": lambda m: m @ flip,
        "inverted": np.linalg.inv,
        "looking away": lambda m: m @ turn,
        "in millimeters": lambda m: m * np.array([[1, 1, 1, 1000]] * 3 + [[1, 1, 1, 1]]),
        "a meter aside": moved(1, 0, 0),
        "infinitely far": moved(1e308, 0, 0),
    }.items():

        def apply(frame: dict[str, Any], change: Callable[[np.ndarray], Any] = change) -> None:
            result = change(np.array(frame["transform_matrix"]))
            frame["transform_matrix"] = result.tolist() if isinstance(result, np.ndarray) else result

        yield Mutation(
            f"transform_matrix of one frame: {name}", in_frame(apply), (f"images/0000{FRAME}.png", "transform_matrix")
        )
        if name in ("in OpenGL axes", "inverted", "in millimeters", "a meter aside", "looking away"):
            everywhere = edited(lambda c, apply=apply: [apply(frame) for frame in c["frames"]])
            yield Mutation(f"transform_matrix of all frames: {name}", everywhere, ("transform_matrix",))


def _of_lists() -> Iterator[Mutation]:
    train, test = "transforms_train.json", "transforms_test.json"

    def frames(change: Callable[[list[Any]], Any], only: str | None = None) -> Change:
        return edited(lambda content: change(content["frames"]), only)

    def copied(folder: Path) -> None:
        moved = json.loads((folder / train).read_text())["frames"][0]
        edited(lambda content: content["frames"].append(moved), test)(folder)

    def rewritten(encoding: str) -> Change:
        return lambda folder: (folder / train).write_text((folder / train).read_text(), encoding=encoding)

    def alone(folder: Path) -> None:
        for split in ("train", "test", "val"):
            (folder / f"transforms_{split}.json").unlink()

    for name, change, names in (
        ("a frame twice", frames(lambda f: f.append(f[0]), train), (train, "images/00000.png", "mesh_path")),
        ("a frame twice, spelt otherwise",
         frames(lambda f: f.append({**f[0], "file_path": "images\\./00000.png"}), train), (train, "mesh_path")),
        ("an image with two meshes", frames(lambda f: f.append({**f[0], "mesh_path": "meshes/00001.obj"}), train),
         (train, "images/00000.png", "file_path", "mesh_path")),
        ("frames unsorted", frames(lambda f: f.reverse()), ()),
        ("a frame in train and test", copied, ()),
        ("train empty", frames(lambda f: f.clear(), train), ()),
        ("test empty", frames(lambda f: f.clear(), test), ()),
        ("val empty", frames(lambda f: f.clear(), "transforms_val.json"), ()),
        ("all empty", frames(lambda f: f.clear()), ("transforms_train.json",)),
        ("a frame is a number", frames(lambda f: f.append(3)), ("transforms", "frames[")),
        ("frames is an object", edited(lambda c: c.update(frames={"0": c["frames"][0]})), ("transforms", "frames")),
        ("no frames key", edited(lambda c: c.pop("frames")), ("transforms", "frames")),
        ("a list at the top", lambda folder: (folder / train).write_text("[]"), (train, "frames")),
        ("nested without end", lambda folder: (folder / train).write_text("[" * 100_000), (train,)),
        ("byte order mark", rewritten("utf-8-sig"), ()),
        ("UTF-16", rewritten("utf-16"), (train,)),
        ("only transforms.json", alone, ()),
    ):  # fmt: skip
        yield Mutation(f"frames: {name}", change, names)


def _of_several() -> Iterator[Mutation]:
    def images(place: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
        def apply(folder: Path) -> None:
            for path in sorted((folder / place).iterdir()):
                Image.fromarray(change(np.array(Image.open(path)))).save(path)

        return apply

    def files(place: str, change: Callable[[str], str]) -> Change:
        def apply(folder: Path) -> None:
            for path in sorted((folder / place).iterdir()):
                path.write_text(change(path.read_text()))

        return apply

    def swapped(place: str) -> Change:
        def apply(folder: Path) -> None:
            first, second = sorted((folder / place).iterdir())[:2]
            one, other = first.read_bytes(), second.read_bytes()
            first.write_bytes(other)
            second.write_bytes(one)

        return apply

    def no_alpha(folder: Path) -> None:
        images("images", lambda p: p[..., :3])(folder)

    def no_alpha_and_no_label(folder: Path) -> None:
        no_alpha(folder)
        (folder / f"seg_mask/0000{FRAME}.png").unlink()

    for name, change, names in (
        ("labels shifted", images("seg_mask", lambda p: np.roll(p, 6, axis=1)), ()),
        ("images shifted", images("images", lambda p: np.roll(p, (2, -6), axis=(0, 1))), ()),
        ("depth shifted", images("depth", lambda p: np.roll(p, 9, axis=1)), ("depth_path",)),
        ("depth a tenth more", images("depth", lambda p: (p * 1.1).astype(np.uint16)), ("depth_path",)),
        ("depth in meters", images("depth", lambda p: (p // 1000).astype(np.uint16)), ("depth_path",)),
        ("depth of nothing", images("depth", lambda p: p * 0), ()),
        ("labels of another numbering", images("seg_mask", lambda p: p // 20), ()),
        ("labels 0 and 255", images("seg_mask", lambda p: ((p > 0) * 255).astype(np.uint8)), ()),
        ("mattes empty", images("images", lambda p: p * np.array([1, 1, 1, 0], np.uint8)), ()),
        ("mattes full", images("images", lambda p: np.maximum(p, np.array([0, 0, 0, 255], np.uint8))), ()),
        ("images without alpha", no_alpha, ()),
        ("images without alpha, one without labels", no_alpha_and_no_label, (f"images/0000{FRAME}.png", "seg_mask")),
        ("16-bit gray images", images("images", lambda p: p[..., 0].astype(np.uint16) * 256), ("file_path",)),
        ("decimal commas in all expressions", files("flame/exp", lambda t: t.replace(".", ",")), ("exp_path",)),
        ("decimal commas in all landmarks", files("landmarks", lambda t: t.replace(".", ",")), ("landmark_path",)),
        ("meshes of two frames swapped", swapped("meshes"), ()),
        ("expressions of two frames swapped", swapped("flame/exp"), ()),
        ("images of two frames swapped", swapped("images"), ()),
    ):
        yield Mutation(f"all frames: {name}", change, names)
