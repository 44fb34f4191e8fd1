"""The anchored ensemble next to a loop over points and members, its symmetry, its derivatives, what may be skipped."""

import pytest
import torch
from torch.nn import functional

import headfields as hf
from headfields.decoders import AnchoredDecoder
from headfields.networks import Anchors

MIRROR = torch.tensor([-1.0, 1.0, 1.0])
FRAMES = 2


def symmetric_places(pairs, middle):
    left = 0.1 * torch.rand(pairs, 3) + torch.tensor([0.01, -0.05, 0.0])
    central = (0.1 * torch.rand(middle, 3) - 0.05) * torch.tensor([0.0, 1.0, 1.0])
    return torch.cat([torch.stack([left, left * MIRROR], dim=1).flatten(0, 1), central])


def decoder(width=2, pairs=3, middle=2, dtype=torch.float32, **options) -> AnchoredDecoder:
    anchors = Anchors(symmetric_places(pairs, middle), pairs, global_width=4, local_width=3, hidden=6)
    sizes = {
        "hidden": 10, "layers": 3, "neighbors": 4, "reach": 3, "appearance_hidden": 8, "appearance_layers": 2,
        "appearance_width": 5, "beta": 20.0, "far": 0.05,
    }  # fmt: skip
    made = AnchoredDecoder(anchors, **(sizes | options))
    made.build(width)
    return made.to(dtype)


def state(part: AnchoredDecoder, frames=FRAMES) -> hf.HeadState:
    dtype = part.anchors.mean.dtype
    codes = {name: torch.randn(frames, width, dtype=dtype) for name, width in part.code_widths.items()}
    return hf.HeadState(torch.zeros(frames, 0, 3, dtype=dtype), codes=codes)


def somewhere(count, dtype=torch.float32) -> hf.Canonical:
    points = 0.2 * torch.rand(count, 3, dtype=dtype) - 0.1
    valid = torch.ones(count, dtype=torch.bool)
    return hf.Canonical(points, points, points, torch.randint(FRAMES, (count,)), valid)


def run(part, features, canonical, prepared, color=True):
    return part(hf.records.Features(features), canonical, prepared, color)


def looped(part: AnchoredDecoder, features, canonical, given: hf.HeadState):
    """The definition, for a point and a member at a time."""
    layout, space = part.anchors.layout, part.anchors
    codes = [layout.split(given.codes[name]) for name in ("geometry", "appearance")]
    places = space.normalized(space(given.codes["geometry"]))
    distances, colors = [], []
    for x, h, b in zip(space.normalized(canonical.points), features, canonical.frame.tolist(), strict=True):
        d = (x - places[b]).norm(dim=-1)
        near = d.argsort()[: part.neighbors]
        s = d[near][: part.reach].max() / part.sharpness
        members = [*near.tolist(), layout.members - 1]
        apart = torch.cat([d[near], d.new_tensor([part.far])])
        weight = torch.exp(-((apart / s) ** 2) / 2)
        weight = weight / (weight.sum() + 1e-8)
        distance, color = 0.0, 0.0
        for w, k in zip(weight, members, strict=True):
            of_pair, last = k < 2 * layout.pairs, k == layout.members - 1
            network = k // 2 if of_pair else k - layout.pairs
            offset = x if last else x - places[b, k]
            own = torch.cat([offset * MIRROR.to(x) if of_pair and k % 2 else offset, h])
            f, hidden = network_of(part.geometry_networks, network, codes[0], b, k, own, part.beta)
            seen = part.projection(hidden) if part.appearance == "geometry" else own
            distance = distance + w * f[0]
            color = color + w * network_of(part.appearance_networks, network, codes[1], b, k, seen, None)[0]
        distances.append(distance / space.scale)
        colors.append((color + 1) / 2)
    return torch.stack(distances), torch.stack(colors)


def network_of(ensemble, network, code, b, k, own, beta):
    x = torch.cat([code[0][b], code[1][b, k], own])
    for layer, (weights, biases) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
        if layer:
            x = functional.relu(x) if beta is None else functional.softplus(x, beta)
        x = x @ weights[network] + biases[network]
        if layer == len(ensemble.weights) - 2:
            hidden = x
    return x, hidden


@pytest.mark.parametrize("width", [0, 2])
@pytest.mark.parametrize("appearance", ["geometry", "point"])
@pytest.mark.parametrize("frames", [1, 2])
def test_values_are_those_of_a_loop(width, appearance, frames):
    part = decoder(width, dtype=torch.float64, appearance=appearance)
    canonical, features = somewhere(25, torch.float64), torch.randn(25, width, dtype=torch.float64)
    given = state(part, frames)
    canonical = canonical.replace(frame=canonical.frame % frames)
    distance, color = looped(part, features, canonical, given)
    found = run(part, features, canonical, part.prepare(given))
    torch.testing.assert_close(found.distance, distance)
    torch.testing.assert_close(found.rgb, color)


@pytest.mark.parametrize(("pairs", "middle"), [(0, 3), (2, 0)])
def test_without_pairs_or_without_a_middle(pairs, middle):
    part = decoder(1, pairs, middle, torch.float64, layers=1, appearance_layers=1, neighbors=9)
    assert part.neighbors == 2 * pairs + middle
    canonical, features, given = somewhere(5, torch.float64), torch.randn(5, 1, dtype=torch.float64), state(part)
    distance, color = looped(part, features, canonical, given)
    found = run(part, features, canonical, part.prepare(given))
    torch.testing.assert_close(found.distance, distance)
    torch.testing.assert_close(found.rgb, color)


def test_the_papers_sizes():
    part = AnchoredDecoder(Anchors(torch.randn(65, 3), 30))
    part.build(2)
    assert part.code_widths == {"geometry": 2176, "appearance": 2176}
    shapes = [tuple(weights.shape) for weights in part.geometry_networks.weights]
    assert shapes == [(36, 101, 200), *[(36, 200, 200)] * 3, (36, 200, 1)]
    shapes = [tuple(weights.shape) for weights in part.appearance_networks.weights]
    assert shapes == [(36, 112, 200), *[(36, 200, 200)] * 3, (36, 200, 3)]
    assert part.far == 0.75 and part.network.tolist()[58:] == [29, 29, 30, 31, 32, 33, 34, 35]


def test_color_later_and_in_pieces(monkeypatch):
    part = decoder()
    canonical, features, prepared = somewhere(700), torch.randn(700, 2), part.prepare(state(part))
    whole = run(part, features, canonical, prepared)
    bare = run(part, features, canonical, prepared, color=False)
    assert bare.rgb is None and torch.equal(bare.distance, whole.distance)
    some = torch.randperm(700)[:300]
    later = part.color(bare[some], canonical[some], prepared)
    torch.testing.assert_close(later, whole.rgb[some])
    monkeypatch.setattr("headfields.decoders.anchored._VALUES", {"cpu": 1})
    with torch.no_grad():
        assert [piece.stop for piece in part._chunks(features)] == [256, 512, 768]
        pieces = run(part, features, canonical, prepared)
    torch.testing.assert_close(pieces.distance, whole.distance)
    torch.testing.assert_close(pieces.rgb, whole.rgb)


def test_a_symmetric_person_has_a_symmetric_head():
    part = decoder(dtype=torch.float64)
    layout = part.anchors.layout
    with torch.no_grad():  # anchors that move symmetrically: no longer at all
        part.anchors.network[-1].weight.zero_()
        part.anchors.network[-1].bias.zero_()
    given = state(part)
    even = {name: (code + layout.mirror(code)) / 2 for name, code in given.codes.items()}
    for weights in (part.geometry_networks.weights[0], part.appearance_networks.weights[0]):
        assert weights.shape[1] > layout.global_width
    with torch.no_grad():  # members in the middle and the global one are no pairs: make them blind to the side
        first = part.geometry_networks.weights[0]
        first[layout.pairs :, layout.global_width + layout.local_width] = 0
    canonical, features = somewhere(60, torch.float64), torch.randn(60, 2, dtype=torch.float64)
    other = canonical.replace(points=canonical.points * MIRROR.double())
    for codes, same in ((even, True), (given.codes, False)):
        prepared = part.prepare(given.replace(codes=codes))
        one, two = run(part, features, canonical, prepared), run(part, features, other, prepared)
        assert torch.allclose(one.distance, two.distance) is same and torch.allclose(one.rgb, two.rgb) is same
    swapped = {name: layout.mirror(code) for name, code in given.codes.items()}
    one = run(part, features, canonical, part.prepare(given))
    two = run(part, features, other, part.prepare(given.replace(codes=swapped)))
    torch.testing.assert_close(one.distance, two.distance)  # the mirrored code is the mirrored person
    torch.testing.assert_close(one.rgb, two.rgb)


def test_derivatives_of_points_features_codes_and_weights():
    part = decoder(1, 1, 1, torch.float64, hidden=4, layers=2, neighbors=3, reach=3, appearance_hidden=3,
                   appearance_layers=1, appearance_width=2)  # fmt: skip
    with torch.no_grad():  # away from the kinks of the ReLUs
        part.projection[0].bias += 3.0
        part.appearance_networks.biases[0] += 3.0
        for layer in part.anchors.network[:-1:2]:
            layer.bias += 3.0
    canonical, codes = somewhere(3, torch.float64), state(part).codes
    inputs = [canonical.points, torch.randn(3, 1, dtype=torch.float64), codes["geometry"], codes["appearance"],
              part.geometry_networks.weights[1]]  # fmt: skip
    inputs = [t.detach().clone().requires_grad_() for t in inputs]

    def function(points, features, geometry, appearance, weights):
        given = hf.HeadState(points.new_zeros(FRAMES, 0, 3), codes={"geometry": geometry, "appearance": appearance})
        part.geometry_networks.weights._parameters["1"] = weights
        try:
            found = run(part, features, canonical.replace(points=points), part.prepare(given))
        finally:
            part.geometry_networks.weights._parameters["1"] = torch.nn.Parameter(weights.detach())
        return found.distance, found.rgb

    # along random directions: there are thousands of pairs of numbers
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_at_an_anchor_and_far_away_gradients_are_finite():
    part = decoder(0)
    given = state(part, 1)
    prepared = part.prepare(given)
    places = part.anchors(given.codes["geometry"])[0].detach()
    points = torch.cat([places, torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, -40.0]])]).requires_grad_()
    frame, valid = torch.zeros(len(points), dtype=torch.long), torch.ones(len(points), dtype=torch.bool)
    found = run(part, points[:, :0], hf.Canonical(points, points, points, frame, valid), prepared)
    (first,) = torch.autograd.grad(found.distance.sum() + found.rgb.sum(), points, create_graph=True)
    first.square().sum().backward()
    assert bool(found.distance.isfinite().all()) and bool(first.isfinite().all()) and bool(points.grad.isfinite().all())


def test_every_parameter_learns_and_nothing_is_legal():
    part = decoder()
    canonical, features = somewhere(300), torch.randn(300, 2)
    found = run(part, features, canonical, part.prepare(state(part)))
    (found.distance.square().sum() + found.rgb.square().sum()).backward()
    assert all(bool(parameter.grad.any()) for parameter in part.parameters())
    for training in (True, False):
        part.train(training).zero_grad()
        none = run(part, features[:0], canonical[:0], part.prepare(state(part)))
        assert none.distance.shape == (0,) and none.rgb.shape == (0, 3)
        (none.distance.sum() + none.rgb.sum()).backward()
        assert part.geometry_networks.weights[0].grad is not None
        assert part.color(none, canonical[:0], part.prepare(state(part))).shape == (0, 3)


def test_members_of_little_weight_are_skipped_in_evaluation_alone():
    part = decoder(neighbors=8, reach=4, skip_below=1e-3)
    canonical, features = somewhere(2000), torch.randn(2000, 2)
    prepared = part.prepare(state(part))
    whole = run(part, features, canonical, prepared)
    part.eval()
    seen = run(part, features, canonical, prepared)
    blend = part.blend(canonical, prepared)
    left_out = (blend.weight * (blend.weight < 1e-3)).sum(dim=1)
    assert int((blend.weight >= 1e-3).sum()) < 0.8 * blend.weight.numel(), "the test skips something"
    # two members are at most twice the largest distance apart: an error of at most the weight left out times that
    part.train()
    each = 2 * members_say(part, features, canonical, prepared)
    assert bool(((whole.distance - seen.distance).abs() <= left_out * each + 1e-7).all())
    assert bool((whole.distance != seen.distance).any())
    torch.testing.assert_close(whole.rgb, seen.rgb, atol=0.02, rtol=0)
    torch.testing.assert_close(blend.weight.sum(dim=1), torch.ones(2000))
    exact = decoder(skip_below=0).eval()
    prepared = exact.prepare(state(exact))
    assert torch.equal(run(exact, features, canonical, prepared).distance,
                       run(exact.train(), features, canonical, prepared).distance)  # fmt: skip


def members_say(part, features, canonical, prepared):
    """The largest distance that any member says of any point, meters."""
    said = []
    original = part.geometry_networks.forward

    def listening(*arguments):
        result = original(*arguments)
        said.append(result[0].abs().max())
        return result

    part.geometry_networks.forward = listening
    run(part, features, canonical, prepared, color=False)
    del part.geometry_networks.forward
    return torch.stack(said).max() / part.anchors.scale


def test_autocast_leaves_distances_alone():
    part = decoder()
    canonical, features, given = somewhere(50), torch.randn(50, 2), state(part)
    whole = run(part, features, canonical, part.prepare(given))
    with torch.autocast("cpu", torch.bfloat16):
        found = run(part, features, canonical, part.prepare(given))
    torch.testing.assert_close(found.distance, whole.distance)
    assert found.rgb.dtype == torch.float32


def test_errors(unchecked):
    for options, message in (
        ({"hidden": 0}, "hidden is 0"), ({"reach": 0}, "reach is 0"), ({"skip_below": 1}, "skip_below=1"),
        ({"appearance": "color"}, "appearance is 'color'"), ({"sharpness": -1}, "sharpness=-1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            decoder(**options)
    part = decoder()
    given = state(part)
    with pytest.raises(ValueError, match="AnchoredDecoder needs 'appearance'"):
        part.prepare(given.replace(codes={"geometry": given.codes["geometry"]}))
    with pytest.raises(ValueError, match="AnchoredDecoder: the code 'appearance' of the HeadState has 3 numbers"):
        part.prepare(given.replace(codes={**given.codes, "appearance": torch.zeros(FRAMES, 3)}))


@pytest.mark.parametrize("neighbors", [4, 17])
def test_nearest_anchors_are_those_of_all_distances(neighbors):
    """By a tree, or by all distances where a tree has no room for so many."""
    part = decoder(pairs=12, middle=3, neighbors=neighbors)
    prepared, canonical = part.prepare(state(part)), somewhere(50)
    assert (prepared.tree is None) == (neighbors == 17)
    member = part.blend(canonical, prepared).member
    x = part.anchors.normalized(canonical.points)
    distance = (x[:, None] - prepared.anchors[canonical.frame]).norm(dim=-1)
    assert torch.equal(member[:, :-1], distance.argsort(dim=1)[:, :neighbors])
    assert bool((member[:, -1] == len(part.anchors)).all())


def test_a_point_that_is_not_finite_stays_so_and_alone():
    part, values = decoder(), torch.zeros(5, 2)
    given, canonical = state(part), somewhere(5)
    before = run(part, values, canonical, part.prepare(given)).distance
    canonical.points[2, 1] = torch.nan
    result = run(part, values, canonical, part.prepare(given))
    assert result.distance.isnan().tolist() == [False, False, True, False, False] and result.rgb[2].isnan().all()
    assert torch.equal(result.distance[[0, 1, 3, 4]], before[[0, 1, 3, 4]])
