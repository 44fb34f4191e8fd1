import json
import os
import shutil
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from headfields.files import safetensors as tensor_files
from headfields.runs import checkpoint
from headfields.runs.ema import ExponentialMovingAverage


def make(width: int = 3, seed: int = 0, fused: bool = True):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1, fused=fused)
    return module, optimizer, ExponentialMovingAverage(module)


def step(module, optimizer, ema) -> None:
    optimizer.zero_grad()
    module(torch.randn(5, 2)).square().sum().backward()
    optimizer.step()
    ema.update()


@pytest.fixture
def saved(tmp_path):
    parts = make()
    for _ in range(3):
        step(*parts)
    progress = checkpoint.Progress(3, 1.5, 20.25, {"note": "x"})
    checkpoint.save(tmp_path / "last.safetensors", *parts, {"torch": torch.get_rng_state()}, progress)
    return tmp_path / "last.safetensors", parts


@pytest.mark.parametrize("fused", [True, False])
def test_round_trip(saved, fused):
    path, (module, optimizer, ema) = saved
    state = torch.get_rng_state()
    other = make(seed=1, fused=fused)
    progress, random = checkpoint.load(path, *other)
    assert progress == checkpoint.Progress(3, 1.5, 20.25, {"note": "x"})
    assert torch.equal(random["torch"], state)
    for name, tensor in module.state_dict().items():
        assert torch.equal(other[0].state_dict()[name], tensor), name
    for name, tensor in ema.average.items():
        assert torch.equal(other[2].average[name], tensor)
    for parts in ((module, optimizer, ema), other):  # the next step is the same, so the moments are
        torch.set_rng_state(state)
        step(*parts)
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(other[0].state_dict()[name], tensor)


def test_weights_alone_are_the_averaged_ones(saved):
    path, (module, _, ema) = saved
    other = make(seed=1)[0]
    assert checkpoint.load_weights(path, other).step == 3
    assert torch.equal(other[0].weight, ema.average["0.weight"])
    assert not torch.equal(other[0].weight, module[0].weight)
    assert torch.equal(other[1].running_mean, module[1].running_mean)


def test_a_checkpoint_without_average_starts_one_from_its_weights(tmp_path):
    module, optimizer, _ = make()
    checkpoint.save(tmp_path / "c", module, optimizer, None, {}, checkpoint.Progress())
    other = make(seed=1)
    checkpoint.load(tmp_path / "c", *other)
    assert torch.equal(other[2].average["0.weight"], module[0].weight)


@pytest.mark.parametrize("where", ["save_file", "fsync", "replace"])
def test_a_crash_while_writing_leaves_the_last_one_whole(saved, monkeypatch, where):
    path, parts = saved
    before = path.read_bytes()
    step(*parts)

    def crash(*arguments):
        if where == "save_file":
            arguments[1].write_bytes(b"half of")
        raise OSError("disk full")

    monkeypatch.setattr(tensor_files if where == "save_file" else os, where, crash)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, *parts, {}, checkpoint.Progress(4))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["last.safetensors"]
    assert checkpoint.load(path, *make())[0].step == 3


def test_others_may_read_it_as_the_umask_says(saved):
    path, _ = saved
    plain = path.with_name("plain")
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_another_models_checkpoint_changes_nothing(saved):
    path, _ = saved
    other = make(width=4, seed=1)
    before = {name: tensor.clone() for name, tensor in other[0].state_dict().items()}
    with pytest.raises(ValueError, match=r"belongs to another model: 0\.weight has shape \(3, 2\) there and \(4, 2\)"):
        checkpoint.load(path, *other)
    assert all(torch.equal(before[name], tensor) for name, tensor in other[0].state_dict().items())


def test_missing_and_unknown_names_are_listed(saved):
    path, _ = saved
    module = nn.ModuleDict({"a": nn.Linear(2, 3)})
    optimizer = torch.optim.Adam(module.parameters())
    with pytest.raises(ValueError, match=r"tensors it lacks: a\.bias, a\.weight; .*0\.bias, .* and 3 more"):
        checkpoint.load(path, module, optimizer, None)


def test_a_file_cut_short(saved):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        checkpoint.load(path, *make())


def test_some_other_safetensors_file(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"headfields\.checkpoint"):
        checkpoint.load(tmp_path / "x.safetensors", *make())


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        checkpoint.load(tmp_path / "nothing", *make())


def test_tied_parameters_are_stored_once(tmp_path):
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    module["b"].weight = module["a"].weight
    optimizer = torch.optim.Adam(module.parameters())
    checkpoint.save(tmp_path / "c", module, optimizer, None, {}, checkpoint.Progress())
    weight = module["a"].weight.detach().clone()
    with torch.no_grad():
        module["a"].weight.zero_()
    checkpoint.load(tmp_path / "c", module, optimizer, None)
    assert torch.equal(module["b"].weight, weight)


def rewritten(path, header=None, **tensors):
    """Writes the checkpoint again with other tensors (None: without) and another header."""
    with safe_open(path, framework="pt") as file:
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["headfields.checkpoint"])
    for pattern, change in tensors.items():
        for name in [name for name in content if name.startswith(pattern)]:
            content[name] = None if change is None else change(content[name])
    content = {name: tensor for name, tensor in content.items() if tensor is not None}
    about = (header or (lambda entry: entry))(about)
    if isinstance(about, dict):
        about["checksum"] = checkpoint.checksum(content, about)
    save_file(content, path, {"headfields.checkpoint": json.dumps(about)})


def test_a_flipped_bit_is_a_broken_file(saved):
    path, _ = saved
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in (start, (start + len(whole)) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.BrokenFileError, match=r"last\.safetensors: bytes have changed"):
            checkpoint.load(path, *make())


def poisoned(tensor):
    return torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer/": None}, "has 0 tensors of the optimizer's state"),
        ({"optimizer/0.weight/exp_avg_sq": None}, "has 11 tensors of the optimizer's state, and was written with 12"),
        ({"header": lambda header: header | {"optimizer": {}}}, "not a checkpoint that can be read"),
        ({"module/0.weight": poisoned}, "the weights 0.weight are not finite"),
        ({"ema/1.bias": poisoned}, "the averaged weights 1.bias are not finite"),
        ({"optimizer/1.bias/exp_avg": poisoned}, "the optimizer's state of 1.bias/exp_avg.* not finite"),
        ({"module/0.weight": lambda tensor: tensor.int()}, "0.weight has dtype torch.int32 there"),
        ({"random/torch": lambda tensor: tensor[:7]}, "not a checkpoint that can be read"),
        ({"random/torch": lambda tensor: tensor.float()}, "the random state torch has dtype torch.float32"),
        ({"header": lambda header: header | {"progress": {"step": "3"}}}, "progress of training"),
        ({"header": lambda header: header | {"progress": {"step": -3}}}, "progress of training is"),
        ({"header": lambda header: header | {"progress": [3]}}, "lacks the progress of training|can be read"),
        ({"header": lambda header: header | {"optimizer": 3}}, "not a checkpoint that can be read"),
        ({"header": lambda header: [header]}, "expected a JSON object"),
    ],
)
def test_wrong_content_is_an_error_that_names_the_file(saved, changes, words):
    path, _ = saved
    rewritten(path, changes.pop("header", None), **changes)
    module, optimizer, ema = make(seed=1)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=rf"last\.safetensors.*({words})"):
        checkpoint.load(path, module, optimizer, ema)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_run_falls_back_from_weights_that_are_not_finite(saved, tmp_path):
    path, _ = saved
    shutil.copy(path, tmp_path / "previous.safetensors")
    rewritten(path, **{"module/0.weight": poisoned})
    module, _, _ = make(seed=1)
    paths = [path, tmp_path / "previous.safetensors"]
    progress, broken = checkpoint.load_newest(paths, lambda each: checkpoint.load_weights(each, module))
    assert progress.step == 3 and [each for each, _ in broken] == [path]
