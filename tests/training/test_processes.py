"""Two processes with half the rays each, against one with all of them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headfields.runs.asynchronous import READ_EVERY
from headfields.runs.folder import RunFolder
from headfields.training.batches import BatchSource
from headfields.training.processes import Processes, SharedBuffers
from tests.avatar.test_splat_avatar import Colored
from tests.tables import table
from tests.training.ball import ball_trainer
from tests.training.late import late_steps
from tests.training.processes import (
    BALL_RAYS,
    BALL_STEPS,
    CODES_STEPS,
    GAUSSIAN_STEPS,
    LATE_STEPS,
    STEPS,
    codes_trainer,
    disc_trainer,
    gaussian_trainer,
    tensors,
)

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """The environment without variables of another launcher or test."""
    gone = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def by_two(out, *scenarios):
    """What each of two processes reaches in each scenario."""
    command = [sys.executable, "-m", "tests.training.processes", str(out), *scenarios]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("processes")
    disc_trainer(out=out / "one").fit(steps=STEPS // 2)  # by one process; two go on with it
    return out


@pytest.fixture(scope="module")
def outcomes(folder):
    return by_two(folder, "disc", "again", "nan", "error", "late")


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """The folder and outcomes of scenarios for the long run."""
    out = tmp_path_factory.mktemp("more")
    return out, by_two(out, "codes", "ball", "nans", "interrupt", "minutes", "full", "late interrupt")


@pytest.fixture(scope="module")
def one():
    """The outcome of one process with all rays."""
    disc = disc_trainer()
    result = disc.fit(steps=STEPS)
    return tensors(disc), result.psnr


@pytest.mark.parametrize("scenario", ["disc", "again"])
def test_two_processes_reach_what_one_reaches(outcomes, one, scenario):
    first, second = (ranks[scenario] for ranks in outcomes)
    assert first["step"] == second["step"] == STEPS
    assert first["psnr"] == second["psnr"] == pytest.approx(one[1], abs=1e-4)
    for name, tensor in one[0].items():
        assert torch.equal(first["state"][name], second["state"][name]), f"{name} differs between processes"
        torch.testing.assert_close(
            first["state"][name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_captured_steps_exchange_within_the_graph(outcomes):
    """As on GPUs, here by gloo: buffers of fixed sizes in each process, losses and gradients added up on the device."""
    first, second = (ranks["late"] for ranks in outcomes)
    with late_steps(captured=True):
        trainer = ball_trainer(BALL_RAYS)
        trainer.fit(steps=LATE_STEPS)
    assert first["reason"] == second["reason"] == trainer.graph_reason == ""
    assert first["step"] == second["step"] == LATE_STEPS and not first["skipped"]
    for rank in (first, second):
        assert rank["losses"] == pytest.approx(trainer.progress.extra["psnr"], abs=0.01), "the errors of all rays"
    for name, tensor in tensors(trainer).items():
        assert torch.equal(first["state"][name], second["state"][name]), f"{name} differs between processes"
        torch.testing.assert_close(first["state"][name].float(), tensor.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_captured_steps_end_together(more):
    """A callback of one process ends the run of both where they read what they have launched."""
    first, second = (ranks["late interrupt"] for ranks in more[1])
    assert first["step"] == second["step"] == READ_EVERY
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name


@pytest.mark.slow
def test_insta_with_its_grid(more):
    first, second = (ranks["ball"] for ranks in more[1])
    trainer = ball_trainer(BALL_RAYS)
    trainer.fit(steps=BALL_STEPS)
    whole = tensors(trainer)
    for name in whole:
        assert torch.equal(first["state"][name], second["state"][name]), f"{name} differs between processes"
    grid = "renderer.sampler.grid."
    assert torch.equal(first["state"][grid + "occupied"], whole[grid + "occupied"])
    assert not bool(whole[grid + "occupied"].all()), "nothing is culled yet, so the test shows nothing"
    torch.testing.assert_close(first["state"][grid + "opacity"], whole[grid + "opacity"], rtol=1e-2, atol=1e-3)
    for name in ("encoder.table", "decoder.density_network.0.weight", "ema/decoder.color_network.0.weight"):
        difference = (first["state"][name] - whole[name]).abs()
        moved = 0.01 if "table" in name else 1e-3  # the learning rates: about what a step moves a weight by
        assert float(difference.mean()) < 0.05 * moved, name


@pytest.mark.slow
def test_rows_of_a_latent_table(more):
    first, second = (ranks["codes"]["state"] for ranks in more[1])
    trainer = codes_trainer()
    trainer.fit(steps=CODES_STEPS)
    whole, trained = tensors(trainer), "codes.light.trained"
    assert 1 < int(whole[trained].sum()) <= CODES_STEPS
    assert torch.equal(first[trained], whole[trained]) and torch.equal(second[trained], whole[trained])
    assert torch.equal(first["codes.light.table"], second["codes.light.table"])
    difference = (first["codes.light.table"] - whole["codes.light.table"]).abs()
    assert float(difference.mean()) < 0.05 * trainer.rates["codes"]  # of what a step moves a code by


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["density", "mcmc", "late density"])
def test_gaussians_come_and_go_alike(gaussians, scenario):
    """Two processes of one image each decide by the sums over both."""
    first, second = (ranks[scenario]["state"] for ranks in gaussians)
    trainer = gaussian_trainer(scenario.removeprefix("late "))
    trainer.fit(steps=GAUSSIAN_STEPS)
    whole = tensors(trainer)
    assert len(whole["gaussians.position"]) > 30
    for name, tensor in whole.items():
        assert torch.equal(first[name], second[name]), f"{name} differs between processes"
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def gaussians(tmp_path_factory):
    return by_two(tmp_path_factory.mktemp("gaussians"), "density", "mcmc", "late density")


def test_whole_images_need_as_many_as_processes():
    capture, second = Colored(), Processes(1, 2, torch.device("cpu"))
    arguments = torch.arange(3), None
    assert BatchSource(capture, second, *arguments, 2, "black", None, None, 0, True).frames_per_step == 2
    with pytest.raises(ValueError, match="frames_per_step is 1 with 2 processes"):
        BatchSource(capture, second, *arguments, 1, "black", None, None, 0, True)


@pytest.mark.slow
def test_two_machines_reach_what_one_process_reaches(tmp_path, one):
    """Each is started by itself, finds the other at an address, and sees the same folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, "-m", "tests.training.processes", str(tmp_path), "nodes"]
    machines = [
        subprocess.Popen(command, cwd=ROOT, env=environment() | address | {"NODE_RANK": str(number)},
                         stderr=subprocess.PIPE, text=True)
        for number in range(2)
    ]  # fmt: skip
    try:
        said = [machine.communicate(timeout=500)[1] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert not any(machine.returncode for machine in machines), said[0][-2000:] + said[1][-2000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False)["nodes"] for rank in (0, 1))
    assert first["step"] == second["step"] == STEPS
    for name, tensor in one[0].items():
        assert torch.equal(first["state"][name], second["state"][name]), f"{name} differs between machines"
        close = first["state"][name], tensor
        torch.testing.assert_close(*close, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_only_the_first_process_writes(folder, outcomes):
    names = [entry.get("event") for entry in RunFolder(folder / "disc").read_log() if "event" in entry]
    assert names == ["start", "picture", "end"]
    assert len(list((folder / "disc/images").iterdir())) == 1


def test_a_nan_on_one_process_is_skipped_by_all(folder, outcomes):
    first, second = (ranks["nan"] for ranks in outcomes)
    assert first["skipped"] == second["skipped"] == 1
    assert first["step"] == STEPS
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]) and bool(tensor.isfinite().all()), name
    (event,) = [entry for entry in RunFolder(folder / "nan").read_log() if entry.get("event") == "skipped"]
    assert event["step"] == 5 and event["what"] == "loss color (on process 1)" and len(event["frames"]) == 4


@pytest.mark.slow
def test_nans_on_one_process_stop_all(more):
    folder, outcomes = more
    for ranks in outcomes:
        assert ranks["nans"]["error"].startswith("NanLossError: step 14: loss color (on process 1) is not finite")
        assert ranks["nans"]["step"] == 14
    assert RunFolder(folder / "nans").read_log()[-1]["event"] == "nan"


def test_an_error_on_one_process_stops_all(outcomes):
    assert outcomes[1]["error"]["error"] == "ZeroDivisionError: on one process alone"
    assert "process 1 of 2 failed: ZeroDivisionError: on one process alone" in outcomes[0]["error"]["error"]


@pytest.mark.slow
def test_a_full_disk_stops_all(more):
    _, outcomes = more
    assert "No space left" in outcomes[0]["full"]["error"]
    assert outcomes[1]["full"]["error"].startswith("PeerError: process 0 of 2 failed")


@pytest.mark.slow
def test_an_interrupt_on_one_process_stops_all_after_the_step(more):
    folder, outcomes = more
    for ranks in outcomes:
        assert ranks["interrupt"]["interrupted"] and ranks["interrupt"]["step"] == 6
    assert outcomes[0]["interrupt"]["step"] == outcomes[1]["interrupt"]["step"]
    assert RunFolder(folder / "interrupt").checkpoint.exists()


@pytest.mark.slow
def test_a_limit_in_minutes_is_by_one_clock(more):
    first, second = (ranks["minutes"] for ranks in more[1])
    assert first["step"] == second["step"] > 1
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name


class Pretended(Processes):
    """Two processes, of which the other one's buffers are given."""

    def __init__(self, other: torch.Tensor) -> None:
        super().__init__(0, 2, torch.device("cpu"))
        self.other = other

    def maximum(self, tensor):
        return torch.maximum(tensor, self.other)

    def broadcast(self, tensors):
        pass


def test_observations_of_a_grid_combine_as_in_one_process():
    from headfields.renderers.occupancy_grid import OccupancyGrid

    grid = OccupancyGrid(2, 0.01)
    old = torch.tensor([0.5, 0.5, 0.5, 0.5, -1.0, -1.0, 0.9, 0.9]).view(2, 2, 2)
    grid.opacity.copy_(old)
    mine = torch.tensor([0.475, 0.5, 0.475, 0.8, 0.3, -1.0, 0.855, 0.9]).view(2, 2, 2)
    yours = torch.tensor([0.475, 0.475, 0.5, 0.7, 0.6, -1.0, 0.9, 0.9]).view(2, 2, 2)
    other = torch.where(yours == old, -torch.inf, yours)
    buffers = SharedBuffers(Pretended(other), grid)
    buffers.snapshot()
    grid.opacity.copy_(mine)
    buffers.merge()
    expected = torch.tensor([0.475, 0.475, 0.475, 0.8, 0.6, -1.0, 0.855, 0.9]).view(2, 2, 2)
    assert torch.equal(grid.opacity, expected)


def test_frames_of_a_centered_warp_are_those_that_any_process_drew():
    from headfields.deformers import ErrorWarp

    warp = ErrorWarp(torch.tensor([[-1.0] * 3, [1.0] * 3]), 4, centered=True)
    warp.drawn[0] = True
    buffers = SharedBuffers(Pretended(torch.tensor([-torch.inf, -torch.inf, 1.0, -torch.inf])), warp)
    buffers.snapshot()
    warp.drawn[1] = True
    buffers.merge()
    assert warp.drawn.tolist() == [True, True, True, False]


@table("total", [0, 1, 2, 7, 2048])
@table("count", [1, 2, 3, 8])
def test_shares_are_even_and_miss_nothing(total, count):
    shares = [Processes(rank, count, torch.device("cpu")).share(total) for rank in range(count)]
    assert [i for share in shares for i in range(total)[share]] == list(range(total))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1
