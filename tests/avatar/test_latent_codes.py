"""Latent tables in an avatar: what fills the codes of a state, what does not fit, and the file."""

from pathlib import Path
from typing import Any

import pytest
import torch

import headfields as hf
from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import Chain, HyperDeformer, Static, SurfaceCanonicalizer
from headfields.encoders import CodeFeatures, FrameCode, Frequency, HashGrid, RegionGate, SurfaceFeatures
from headfields.networks import Anchors, LatentTable
from headfields.records import HeadState
from headfields.renderers import UniformSampler, VolumeRenderer
from tests.avatar.test_composition import BOX, CAMERA, FACES, VERTICES


def grid() -> HashGrid:
    return HashGrid(levels=2, features=2, log2_table_size=8, base_resolution=4, finest_resolution=8)


def avatar(condition: Any = None, deformer: Any = None, **options: Any) -> Avatar:
    condition = FrameCode("light", 3) if condition is None else condition
    renderer = VolumeRenderer(UniformSampler(4))
    return Avatar(deformer or Static(BOX), grid(), NeRFDecoder(8), renderer, condition, **options)


def table(trained: tuple[int, ...] = (0, 1, 4), **options: Any) -> LatentTable:
    """Rows of (i + 1) · (1, 10, 100), of which some are trained."""
    made = LatentTable(6, 3, **options)
    with torch.no_grad():
        made.table.copy_(torch.outer(torch.arange(1.0, 7), torch.tensor([1.0, 10, 100])))
    made.build()
    made.trained[list(trained)] = True
    return made


def state(frames: list[int] | None, count: int = 1, **fields: Any) -> HeadState:
    frame_id = None if frames is None else torch.tensor(frames, dtype=torch.long)
    return HeadState(torch.zeros(count if frames is None else len(frames), 0, 3), frame_id=frame_id, **fields)


def first(codes: torch.Tensor) -> list[float]:
    torch.testing.assert_close(codes, codes[:, :1] * torch.tensor([1.0, 10, 100]))
    return codes[:, 0].tolist()


@pytest.mark.parametrize(
    ("unseen", "expected", "without_index"),
    [
        ("mean", [1, 2, 8 / 3, 8 / 3, 5, 8 / 3, 8 / 3, 8 / 3], 8 / 3),
        ("nearest", [1, 2, 2, 5, 5, 5, 5, 1], 8 / 3),
        ("zero", [1, 2, 0, 0, 5, 0, 0, 0], 0),
    ],
)
def test_frames_that_training_never_saw(unseen: str, expected: list[float], without_index: float) -> None:
    made = avatar(codes={"light": table(unseen=unseen)}).eval()
    codes = made.with_codes(state([0, 1, 2, 3, 4, 5, 90, -7])).codes["light"]
    assert first(codes) == pytest.approx(expected)
    assert first(made.with_codes(state(None, 2)).codes["light"]) == pytest.approx([without_index] * 2)
    assert made.with_codes(state([])).codes["light"].shape == (0, 3)
    between = avatar(codes={"light": table((1, 5), unseen=unseen)}).eval()
    assert unseen != "nearest" or first(between.with_codes(state([3])).codes["light"]) == [2], "the earlier of two"
    none = avatar(codes={"light": table((), unseen=unseen)}).eval()
    assert first(none.with_codes(state([0, 5])).codes["light"]) == [0, 0], "nothing is trained"


def test_given_codes(unchecked: None) -> None:
    made = avatar(codes={"light": table(unseen="given")}).eval()
    assert first(made.with_codes(state([4, 0])).codes["light"]) == [5, 1]
    message = r"the code 'light' of frame_id \[2, 9\] is not trained.*codes=\{'light': \.\.\.\}\) of shape \(3, 3\)"
    with pytest.raises(ValueError, match=message):
        made.field(state([2, 1, 9]))
    with pytest.raises(ValueError, match=r"frame_id None is not trained"):
        made.field(state(None))
    own = torch.full((3, 3), 7.0)
    for mode in (True, False):
        field = made.train(mode).field(state([2, 1, 9], codes={"light": own}))
        assert field.state.codes["light"] is own, "a code that the state carries stays"


def test_training_uses_the_row_and_remembers_it(unchecked: None) -> None:
    made = avatar(codes={"light": table((), unseen="nearest")}).train()
    given = state([5, 2, 5])
    with torch.no_grad():
        made.update(given, 0)
    assert not bool(made.codes["light"].trained.any()), "an update of the occupancy trains no code"
    codes = made.field(given).state.codes["light"]
    assert first(codes.detach()) == [6, 3, 6] and made.codes["light"].trained.tolist() == [False, False, True] * 2
    codes.sum().backward()
    assert made.codes["light"].table.grad[:, 0].tolist() == [0, 0, 1, 0, 0, 2]
    with pytest.raises(IndexError, match=r"rows 0 to 5; build it with .*count=len\(capture\)"):
        made.field(state([6]))
    with pytest.raises(ValueError, match=r"'light' comes from a LatentTable of 6 rows by frame.*no frame_id"):
        made.field(state(None))


@pytest.mark.parametrize("by", ["identity", "sequence"])
def test_people_and_sequences(by: str, unchecked: None) -> None:
    made = avatar(codes={"light": table((), by=by)}).train()
    given = state([0, 1, 2], **{by: torch.tensor([4, 0, 4])})
    assert first(made.field(given).state.codes["light"].detach()) == [5, 1, 5]
    assert getattr(given[1:], by).tolist() == [0, 4]
    message = rf"6 rows by {by}, and the HeadState has no {by}: .*JoinedCaptures.*state.replace\({by}="
    with pytest.raises(ValueError, match=message):
        made.field(state([0, 1]))
    made.eval()
    assert first(made.with_codes(state([0])).codes["light"]) == [3], "the mean of the trained rows"
    one = avatar(codes={"light": LatentTable(1, 3, by=by)})  # needs no index
    row = one.codes["light"].table.detach()
    assert torch.equal(one.field(state([3, 9])).state.codes["light"].detach(), row.expand(2, 3))
    assert torch.equal(one.eval().field(state([8])).state.codes["light"].detach(), row)


def test_what_does_not_fit_is_refused_by_name(unchecked: None) -> None:
    anchors = Anchors(VERTICES[[1, 3, 5]], 1, global_width=4, local_width=2, hidden=6)
    hyper = HyperDeformer(anchors, expression_width=3, identity_width=2, hidden=8, layers=2, skip=1)
    surface = SurfaceCanonicalizer(VERTICES, FACES)
    source = SurfaceFeatures(CodeFeatures(len(VERTICES), {"light": 5}, 2), FACES)
    for part, deformer, code, width, message in (
        (None, None, "light", 4, r"codes\['light'\] is a LatentTable 4 wide, and FrameCode reads 3 values.*3 wide"),
        (None, hyper, "expression_code", 4, "4 wide, and HyperDeformer reads 3 values"),
        (None, Chain(Static(BOX), hyper), "expression_code", 4, "4 wide, and HyperDeformer reads 3 values"),
        (None, hyper, "geometry", 4, "4 wide, and HyperDeformer reads 12 values"),
        (source, surface, "light", 3, "3 wide, and CodeFeatures reads 5 values"),
        (RegionGate("light", torch.ones(len(FACES)), 2), surface, "light", 3, "3 wide, and RegionGate reads 2"),
        (None, None, "shade", 3, r"codes has 'shade', and no part needs it; the parts need the codes \['light'\]"),
        (None, None, "frame_id", 3, "codes has 'frame_id', which is a field of HeadState"),
        (None, None, "a.b", 3, "codes has 'a.b', which .* has a dot"),
        (None, None, "values", 3, "codes has 'values', which is a field of HeadState or of a module"),
    ):
        with pytest.raises(ValueError, match=message):
            avatar(part, deformer, codes={code: LatentTable(4, width)})
    with pytest.raises(TypeError, match=r"codes\['light'\] is a Parameter; expected a headfields.networks.LatentTable"):
        avatar(codes={"light": torch.nn.Parameter(torch.zeros(4, 3))})
    with pytest.raises(TypeError, match=r'codes is a LatentTable; expected latent tables by .*\{"appearance": '):
        avatar(codes=LatentTable(4, 3))
    for size in (2.5, True, "4"):
        with pytest.raises(TypeError, match=f"LatentTable: count is {size!r}; expected an integer"):
            LatentTable(size, 3)
    for options, message in (
        ({"by": "person"}, "by is 'person'; expected one of 'frame', 'identity', 'sequence'"),
        ({"unseen": "last"}, "unseen is 'last'; expected 'mean', 'nearest', 'zero', 'given'"),
        ({"by": "sequence", "unseen": "nearest"}, "nearest in time, and by is 'sequence'"),
    ):
        with pytest.raises(ValueError, match=message):
            LatentTable(4, 3, **options)


def test_a_missing_code_names_the_part_and_the_line(unchecked: None) -> None:
    line = r"codes=\{'light': headfields.networks.LatentTable\(len\(capture\), 3\)\}"
    with pytest.raises(ValueError, match=rf"FrameCode needs 'light' of the HeadState.*{line}.*\(B, 3\)"):
        avatar().field(state([0]))

    class Tinted(Frequency):
        needs = ("tint",)

    with pytest.raises(ValueError, match=r"Tinted needs 'tint'.*codes=\{'tint': .*LatentTable\(len\(capture\), width"):
        avatar(Tinted(2)).field(state([0]))
    anchors = Anchors(VERTICES[[1, 3, 5]], 1, global_width=4, local_width=2, hidden=6)
    hyper = HyperDeformer(anchors, expression_width=3, identity_width=2, hidden=8, layers=2, skip=1)
    made = avatar(RegionGate("pose", torch.ones(len(FACES)), 3), Chain(SurfaceCanonicalizer(VERTICES, FACES), hyper))
    with pytest.raises(ValueError, match=r"HyperDeformer needs 'geometry'.*LatentTable\(len\(capture\), 12\)"):
        made.field(state([0]))
    codes = {"geometry": torch.zeros(1, 12), "expression_code": torch.zeros(1, 3)}
    with pytest.raises(ValueError, match=r"RegionGate needs 'pose' of the HeadState.*A head model .* fills expression"):
        made.field(HeadState(VERTICES[None], codes=codes))
    with pytest.raises(ValueError, match=r"FrameCode: the state's 'light' has shape \(1, 2\); expected \(B, 3\)"):
        avatar().field(state([0], codes={"light": torch.zeros(1, 2)}))
    with pytest.raises(ValueError, match="FrameCode: width is 0"):
        FrameCode("light", 0)


def test_hyper_coordinates_fit_the_hash_grid(unchecked: None) -> None:
    anchors = Anchors(VERTICES[[1, 3, 5]], 1, global_width=4, local_width=2, hidden=6)
    for ambient in (None, 2):
        options = {} if ambient is None else {"ambient": ambient}
        parts = HyperDeformer(anchors, **options), HashGrid(log2_table_size=8), NeRFDecoder(8)
        if ambient is None:
            assert Avatar(*parts, VolumeRenderer(UniformSampler(4))).encoder.layout.dimensions == 4
            continue
        message = r"HyperDeformer gives 2 hyper-coordinates, and HashGrid reads at most 1.*\(ambient=1\)"
        with pytest.raises(ValueError, match=message):
            Avatar(*parts, VolumeRenderer(UniformSampler(4)))


@pytest.mark.parametrize("unseen", ["mean", "nearest", "zero", "given"])
def test_saved_with_the_avatar(unseen: str, tmp_path: Path, unchecked: None) -> None:
    made = avatar(
        codes={
            "light": table(unseen=unseen),
        }
    ).train()
    made.save(tmp_path / "avatar.safetensors")
    again = hf.Avatar.load(tmp_path / "avatar.safetensors")
    kept = again.codes["light"]
    assert (kept.by, kept.unseen, kept.trained.tolist()) == ("frame", unseen, [True, True, False, False, True, False])
    for frame in (1, 4) if unseen == "given" else (1, 3, 8):
        expected = made.render(CAMERA, state([frame])).rgb
        assert torch.equal(again.render(CAMERA, state([frame])).rgb, expected)
    kept.unseen = "zero"
    again.save(tmp_path / "changed.safetensors")
    assert hf.Avatar.load(tmp_path / "changed.safetensors").codes["light"].unseen == "zero"
    with pytest.raises(ValueError, match="unseen is 'last'"):
        kept.unseen = "last"
    avatar().save(tmp_path / "without.safetensors")
    assert not hf.Avatar.load(tmp_path / "without.safetensors").codes
    assert b'"codes"' not in (tmp_path / "without.safetensors").read_bytes()[:100_000]


def test_one_table_in_two_avatars_keeps_what_it_learned(unchecked: None) -> None:
    shared = table()
    made = avatar(codes={"light": shared}).eval()
    for other in (avatar(codes={"light": shared}).eval(), made.replace(renderer=VolumeRenderer(UniformSampler(2)))):
        assert other.codes["light"] is shared and shared.trained.sum() == 3
        assert first(other.with_codes(state([4])).codes["light"]) == [5]
    fresh = made.replace(codes={"light": LatentTable(9, 3)})
    assert not fresh.training and not fresh.codes["light"].trained.any() and shared.trained.sum() == 3
    assert not made.replace(codes=None).codes
    with pytest.raises(ValueError, match="codes has 'light', and no part needs it"):
        made.replace(condition=None, decoder=NeRFDecoder(8))
