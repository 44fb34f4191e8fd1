"""Initial codes from principal components, and noise on codes."""

import pytest
import torch

from headfields.apps.priors import PriorTrainer, principal_codes
from headfields.apps.priors.codes import PriorCodes, anchors_of
from headfields.apps.priors.scans.batch import generator
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.apps.priors.step_draw import CodeRows
from tests.apps.priors.tiny import tiny_model, tiny_scans


@pytest.fixture(scope="module")
def scans() -> MeshScans:
    return tiny_scans(people=5, expressions=4)


def test_codes_say_how_far_meshes_are_apart(scans: MeshScans) -> None:
    avatar = tiny_model(scans)
    found = principal_codes(avatar, scans)
    width = anchors_of(avatar).layout.width
    assert found.geometry.shape == found.appearance.shape == (20, width)
    assert found.expression.shape == (20, avatar.deformer.expression_width)
    shared = anchors_of(avatar).layout.global_width
    assert float(found.geometry[:, shared:].abs().max()) == 0
    # people lie on a line, and evenly, as they were made; so do faces
    for codes in (found.geometry[::4], found.expression.view(5, 4, -1)[2]):
        gaps = codes.diff(dim=0)
        assert torch.allclose(gaps, gaps[:1].expand_as(gaps), atol=0.02 * float(gaps.norm(dim=1).max()))
    assert torch.allclose(found.geometry.square().sum(-1).mean(), torch.tensor(0.1))
    assert torch.allclose(found.expression.square().sum(-1).mean(), torch.tensor(0.04))


def test_a_face_has_the_same_code_whoever_makes_it(scans: MeshScans) -> None:
    codes = principal_codes(tiny_model(scans), scans).expression.view(5, 4, -1)
    assert torch.allclose(codes, codes[:1].expand_as(codes), atol=1e-3)


def test_a_small_component_is_not_lost_beside_a_large_one(scans: MeshScans) -> None:
    vertices = scans.vertices[:1].repeat(4, 1, 1)
    vertices[1, :20] += 0.01
    vertices[2, 50:70] += 0.0001
    vertices[3, 50:70] -= 0.0001
    few = MeshScans(vertices, scans.faces, torch.zeros(4, dtype=torch.long), scans.rgb[:1])
    spread = principal_codes(tiny_model(scans), few).expression.std(0)
    assert 0.05 < float(spread[1] / spread[0]) < 0.2  # of a share that is a hundredth of the other


def test_one_person_starts_at_zero(scans: MeshScans) -> None:
    one = principal_codes(tiny_model(scans), scans.of([0]))
    assert float(one.geometry.abs().max()) == 0
    assert one.geometry.shape[0] == 4


def trainer(scans: MeshScans, **options) -> PriorTrainer:
    return PriorTrainer(tiny_model(scans), scans, bar=False, pictures=0, **options)


def test_training_starts_there(scans: MeshScans) -> None:
    starts = principal_codes(tiny_model(scans), scans)
    codes = trainer(scans, initial_codes=starts).codes(torch.arange(20))
    assert torch.equal(codes.expression, starts.expression)
    assert torch.equal(codes.geometry, starts.geometry)
    assert float(trainer(scans).codes(torch.arange(20)).geometry.abs().max()) == 0
    few = PriorCodes(starts.geometry[:2], starts.appearance[:2], starts.expression[:2])
    with pytest.raises(ValueError, match=r"initial_codes.geometry has shape \(2, 33\); expected \(20, 33\)"):
        trainer(scans, initial_codes=few)


def test_noise_varies_as_the_codes_do() -> None:
    direction = torch.randn(5, generator=generator(0))
    along = torch.linspace(-1, 1, 20)
    table = along[:, None] * direction
    rows = CodeRows.draw(torch.arange(4000), generator(1), size=len(table), noise=0.5)
    drawn = rows.codes(torch.zeros(4000, 5), table)
    amount = drawn @ direction / direction.square().sum()
    assert torch.allclose(drawn, amount[:, None] * direction, atol=1e-5)
    assert float(amount.std()) == pytest.approx(0.5 * float(along.std(correction=0)), rel=0.05)
    still = rows.codes(torch.ones(4000, 5), torch.zeros_like(table))
    assert torch.equal(still, torch.ones_like(still))
