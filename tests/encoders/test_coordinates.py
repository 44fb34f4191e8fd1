import pytest
import torch

from headfields.encoders import Coordinates
from headfields.records import Canonical

BOX = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])


def canonical(count: int, ambient: int) -> Canonical:
    points = torch.randn(count, 3, requires_grad=True)
    frame, valid = torch.zeros(count, dtype=torch.long), torch.ones(count, dtype=torch.bool)
    return Canonical(points, points, points, frame, valid, ambient=torch.randn(count, ambient) if ambient else None)


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("ambient", [0, 2])
def test_coordinates_are_the_features(count: int, ambient: int) -> None:
    at = canonical(count, ambient)
    hyper = torch.zeros(count, 0) if at.ambient is None else at.ambient
    for options, wanted in (
        ({}, torch.cat([at.points, hyper], dim=-1)),
        ({"points": False}, hyper),
        ({"ambient": False, "scale": 4.0}, 4 * at.points),
    ):
        encoder = Coordinates(**options)
        encoder.build(BOX, ambient)
        found = encoder(at, None)
        assert torch.equal(found, wanted) and encoder.width == found.shape[1]


def test_errors(unchecked: None) -> None:
    for scale in (0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"Coordinates: scale is {scale}"):
            Coordinates(scale=scale)
