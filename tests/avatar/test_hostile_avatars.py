"""Damaged and hostile files of avatars and priors: each is loaded, or is a ValueError with the file's name."""

import copy
import json
import random
import resource
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from headfields.apps.priors import load_prior
from headfields.avatar.avatar import Avatar
from headfields.avatar.splat_avatar import load_avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import Static
from headfields.encoders import HashGrid
from headfields.networks.mlp import hidden_layers
from headfields.part_names import import_parts, part_class
from headfields.parts import Decoder
from headfields.records import Template
from headfields.renderers import UniformSampler, VolumeRenderer
from tests.shapes import uv_sphere
from tests.tables import table

KEY, PRIOR = "headfields.avatar", "headfields.prior"
BOX = torch.tensor([[-0.15, -0.15, -0.15], [0.15, 0.15, 0.15]])
Content = tuple[dict[str, Tensor], dict[str, Any]]


def read(path: Path) -> Content:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, {key: json.loads(value) for key, value in file.metadata().items()}


def write(path: Path, tensors: dict[str, Tensor], headers: dict[str, Any]) -> Path:
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in headers.items()}
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path, text)
    return path


def deep(depth: int = 20_000) -> Any:
    """Nested lists, as text, because json.dumps does not write them."""
    return f"@{depth}@"


VALUES: list[Any] = [
    None, True, -1, 0, 1, 3, 10**9, 10**18, 10**40, 0.5, float("nan"), float("inf"), -1e300, "", "x", "released", [],
    {}, [1, 2], {"tensor": "absent"}, {"tensor": ["x"]}, {"same": "encoder"}, {"same": 3}, {"tuple": 3}, {"dict": [1]},
    {"record": "Template", "fields": {}}, {"record": ["x"]}, {"part": "headfields.__main__.x", "arguments": {}},
    {"part": "os.path.join", "arguments": {}}, {"part": "headfields.encoders.hash_grid.HashGrid", "arguments": {}},
    {"part": 3, "arguments": {}}, {"part": "headfields.parts.Encoder", "arguments": {}}, deep(),
]  # fmt: skip


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Each container of a tree, with each key into it."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from places(node[key])


def mutated(content: Content, source: random.Random) -> Content:
    tensors, headers = dict(content[0]), copy.deepcopy(content[1])
    for _ in range(source.choice([1, 1, 1, 2, 4])):
        if source.random() < 0.6:
            owner, key = source.choice(list(places(headers[source.choice(list(headers))])))
            kind = source.choice(["value", "value", "value", "drop", "rename", "other"])
            if kind == "value":
                owner[key] = source.choice(VALUES)
            elif kind == "other":
                other, place = source.choice(list(places(headers)))
                owner[key] = copy.deepcopy(other[place])
            else:
                value = owner.pop(key)
                if kind == "rename" and isinstance(owner, dict):
                    owner[f"{key}_"] = value
        else:
            mutate_tensor(tensors, source)
    return tensors, headers


def mutate_tensor(tensors: dict[str, Tensor], source: random.Random) -> None:
    name = source.choice(sorted(tensors))
    tensor = tensors[name].clone()
    kind = source.choice(["drop", "rename", "fill", "reshape", "dtype", "cut", "one"])
    if kind == "drop":
        del tensors[name]
        return
    if kind == "rename":
        tensors[source.choice([f"{name}_", f"state.{name}", "state.x"])] = tensors.pop(name)
        return
    number = source.choice([float("nan"), float("inf"), 1e30]) if tensor.is_floating_point() else 0
    number = source.choice([2**40, -1, 7]) if tensor.dtype == torch.int64 else number
    if kind == "fill":
        tensor.fill_(number)
    elif kind == "one" and tensor.numel():
        tensor.view(-1)[source.randrange(tensor.numel())] = number
    elif kind == "reshape":
        tensor = source.choice([tensor.reshape(-1), tensor[None], tensor.new_zeros(0), tensor.new_zeros(0, 3)])
    elif kind == "dtype":
        tensor = tensor.to(source.choice([torch.float64, torch.float16, torch.int64, torch.bool, torch.uint8]))
    elif kind == "cut" and tensor.ndim:
        tensor = tensor[: len(tensor) // 2]
    tensors[name] = tensor


def text(headers: dict[str, Any]) -> dict[str, str]:
    written = {key: json.dumps(value) for key, value in headers.items()}
    return {key: value.replace(f'"{deep()}"', "[" * 20_000 + "]" * 20_000) for key, value in written.items()}


def check(path: Path, loader: Callable[[Path], Any]) -> bool:
    """Whether the file is loaded; what else may happen is a ValueError of one line with the name of the file."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        loader(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error), error
        return False
    finally:
        assert time.perf_counter() - begin < 60
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**21, "2 GB"
    return True


@pytest.mark.parametrize("count", [100, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutations(count: int, tmp_path: Path, samples: Path) -> None:
    source, loaded, torch_state = random.Random(count), 0, torch.get_rng_state()
    contents = [read(path) for path in sorted(samples.glob("*.safetensors"))]
    for index in range(count):
        tensors, headers = mutated(source.choice(contents), source)
        path = write(tmp_path / f"{index}.safetensors", tensors, text(headers))
        loaded += check(path, load_prior if PRIOR in headers else load_avatar)
        path.unlink()
    assert 0 < loaded < count / 2
    torch.set_rng_state(torch_state)


def avatar(decoder: Decoder | None = None) -> Avatar:
    vertices, faces = uv_sphere(4, 5, radius=0.1)
    return Avatar(
        Static(BOX), HashGrid(2, 2, 6, 4, 8), decoder or NeRFDecoder(hidden=8), VolumeRenderer(UniformSampler(4)),
        template=Template(vertices, faces),
    )  # fmt: skip


def arguments(headers: dict[str, Any], part: str) -> dict[str, Any]:
    found: dict[str, Any] = headers[KEY]["parts"][part]["arguments"]
    return found


def set_argument(part: str, **values: Any) -> Callable[[Content], None]:
    return lambda content: arguments(content[1], part).update(values)


def set_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Content], None]:
    return lambda content: content[0].update({name: change(content[0][name])})


def set_part(part: str, name: str) -> Callable[[Content], None]:
    return lambda content: content[1][KEY]["parts"][part].update(part=name)


def nan_at_5(tensor: Tensor) -> Tensor:
    tensor.view(-1)[5] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_argument("encoder", levels=10**9), r"parts\.encoder: HashGridLayout: levels is 1000000000; expected 1 to"),
        (set_argument("encoder", features=10**9), "ask for larger or more tables than the file has"),
        (set_argument("decoder", hidden=10**7), "ask for larger or more tables than the file has"),
        (set_argument("decoder", density_layers=10**9), "number of hidden layers is 1000000000"),
        (set_argument("encoder", extent="1"), r"parts\.encoder\.extent is '1'; expected float \| None"),
        (set_argument("encoder", initial=float("nan")), r"parts\.encoder\.initial is nan; expected"),
        (set_argument("encoder", octaves=3), r"parts\.encoder has the argument 'octaves'.*its arguments are levels"),
        (lambda content: arguments(content[1], "deformer").pop("box"), r"parts\.deformer has no box"),
        (lambda content: content[1][KEY]["parts"].pop("decoder"), "parts has no 'decoder'"),
        (lambda content: content[1][KEY].update(parts=[]), r"parts is \[\]; expected parts by name"),
        (lambda content: content[1][KEY].update(preview=3), "preview"),
        (set_part("encoder", "headfields.__main__.x"), r"headfields\.__main__\.x is not a part of headfields"),
        (set_part("encoder", "antigravity.Encoder"), r"antigravity\.Encoder is not a part of headfields"),
        (set_part("encoder", "headfields.cli.doctor.Encoder"), r"headfields\.cli\.doctor\.Encoder is not a part"),
        (set_part("encoder", "__main__.NotHere"), r"__main__\.NotHere was defined in a script or.*--import my_parts"),
        (set_part("encoder", "headfields.decoders.nerf.NeRFDecoder"), r"parts\.encoder has the argument 'levels'"),
        (set_tensor("state.encoder.table", nan_at_5), r"state\.encoder\.table has numbers that are not finite"),
        (set_tensor("state.encoder.table", lambda x: x / 0), r"state\.encoder\.table has numbers that are not finite"),
        (set_tensor("state.encoder.table", lambda x: x[1:]), r"state\.encoder\.table is torch\.float32 of shape \("),
        (lambda content: content[0].pop("state.encoder.table"), r"state\.encoder\.table is missing"),
        (set_tensor("template.canonical_vertices", nan_at_5), r"template\.canonical_vertices: the tensor has NaN"),
        (set_tensor("template.faces", lambda x: x + 50), r"template: Template: faces holds indices from 50 to"),
        (set_tensor("template.faces", lambda x: x.float()), r"template: .*faces"),
        (set_tensor("deformer.box", lambda x: x * torch.nan), r"parts\.deformer\.box: the tensor has NaN"),
        (lambda content: content[1][KEY].update(parts=deep()), "recursion|nested|deep"),
    ],
)  # fmt: skip
def test_malformed_files_are_named(
    change: Callable[[Content], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    avatar().save(tmp_path / "good")
    content = read(tmp_path / "good")
    change(content)
    path = write(tmp_path / "bad", content[0], text(content[1]))
    before, modules = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, set(sys.modules)
    with pytest.raises(ValueError, match=message) as raised:
        Avatar.load(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**21
    assert not {"headfields.__main__", "headfields.cli.doctor", "antigravity"} & (set(sys.modules) - modules)


@table(
    ("change", "message"),
    [
        (lambda content: content[1][PRIOR].pop("people"), "people is None; expected a list of names"),
        (lambda content: content[1][PRIOR].update(about=3), "about is 3"),
        (lambda content: content[0].pop("prior.geometry"), r"the tensor prior\.geometry is missing"),
        (set_tensor("prior.geometry", nan_at_5), r"prior\.geometry is .*expected finite codes"),
        (set_tensor("prior.geometry", lambda x: x[:, 1:]), r"prior\.geometry has codes of \d+ numbers"),
        (set_tensor("prior.person", lambda x: x + 100), r"Prior: person has numbers that are not in"),
        (set_tensor("prior.person", lambda x: x.float()), r"prior\.person is torch\.float32"),
        (lambda content: content[1].update({PRIOR: []}), "expected a JSON object"),
    ],
)  # fmt: skip
def test_malformed_priors_are_named(
    change: Callable[[Content], Any], message: str, tmp_path: Path, samples: Path
) -> None:
    content = read(samples / "prior.safetensors")
    change(content)
    path = write(tmp_path / "bad.safetensors", *content)
    with pytest.raises(ValueError, match=message) as raised:
        load_prior(path)
    assert str(path) in str(raised.value)


def test_a_name_with_a_dot_keeps_its_tensor(tmp_path: Path) -> None:
    class Tables(NeRFDecoder):
        def __init__(self, tables: dict[str, Any]) -> None:
            super().__init__(hidden=4)
            self.tables = tables

    nested = {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}
    avatar(Tables(nested)).save(tmp_path / "avatar")
    again = Avatar.load(tmp_path / "avatar").decoder.tables
    assert float(again["a.b"]) == 1 and float(again["a"]["b"]) == 0


def test_named_arguments_without_a_list_of_names(tmp_path: Path) -> None:
    class Open(NeRFDecoder):
        def __init__(self, hidden: int, *more: int, **options: int) -> None:
            super().__init__(hidden, **options)
            self.more = more

    avatar(Open(4, 7, 8, density_layers=1)).save(tmp_path / "avatar")
    again = Avatar.load(tmp_path / "avatar").decoder
    assert again.hidden == 4 and again.more == (7, 8) and again.density_layers == 1


SOURCE = """
    import headfields as hf

    class Flat(hf.decoders.NeRFDecoder):
        pass

    class Twice(hf.decoders.NeRFDecoder):
        pass
"""


def test_parts_of_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved by a script or by a module, loaded where the file is imported by its path."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "parts_of_mine.py").write_text(textwrap.dedent(SOURCE))
    module = import_parts(tmp_path / "parts_of_mine.py")
    assert module.__name__ == "parts_of_mine" and import_parts(tmp_path / "parts_of_mine.py") is module
    path = tmp_path / "avatar.safetensors"
    avatar(module.Flat(hidden=4)).save(path)
    assert type(Avatar.load(path).decoder) is module.Flat
    tensors, headers = read(path)
    headers[KEY]["parts"]["decoder"]["part"] = "__main__.Flat"
    write(path, tensors, headers)
    assert type(Avatar.load(path).decoder) is module.Flat, "the script that saved it is the file that is imported"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "script.py"), raising=False)
    own = type("Own", (NeRFDecoder,), {"__module__": "__main__", "__qualname__": "Own"})
    assert part_class("script.Own") is own is part_class("__main__.Own")
    with pytest.raises(ValueError, match=r"other\.Own is not a part"):
        part_class("other.Own")


def test_files_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(FileNotFoundError, match=r"absent\.py: no such file"):
        import_parts(tmp_path / "absent.py")
    (tmp_path / "my-parts.py").touch()
    with pytest.raises(ValueError, match=r"cannot be imported as 'my-parts'; give it a name such as my_parts\.py"):
        import_parts(tmp_path / "my-parts.py")
    (tmp_path / "json.py").touch()
    with pytest.raises(ValueError, match=r"json\.py: another module is named json already; rename the file"):
        import_parts(tmp_path / "json.py")
    assert import_parts("tests.shapes") is sys.modules["tests.shapes"]
    with pytest.raises(FileNotFoundError, match="no_such_module: there is no such module"):
        import_parts("no_such_module")


def test_a_number_of_layers_has_a_limit() -> None:
    assert hidden_layers(8, 3) == [8, 8, 8]
    with pytest.raises(ValueError, match="number of hidden layers is 1000000; expected at most 1024"):
        hidden_layers(8, 10**6)
