"""MonoAvatar's page states the sizes and rates that the code has."""

import inspect
from pathlib import Path

from headfields.deformers import ErrorWarp
from headfields.encoders import VertexFeatures
from headfields.models.monoavatar import SIZES
from headfields.training.recipes import MONOAVATAR

PAGE = (Path(__file__).parents[2] / "docs" / "monoavatar.md").read_text(encoding="utf-8")


def defaults(part: type, *names: str) -> dict[str, object]:
    parameters = inspect.signature(part).parameters
    return {name: parameters[name].default for name in names}


def size_rows() -> list[str]:
    """The rows of the page's table of sizes, from the code."""
    anchored = {
        name: defaults(VertexFeatures, "bands", "hidden", "layers", "merged_layers") | SIZES[name]["anchored"]
        for name in ("paper", "cpu")
    }
    warp = {
        name: defaults(ErrorWarp, "hidden", "layers", "head_layers", "start", "coarse_to_fine") | SIZES[name]["warp"]
        for name in ("paper", "cpu")
    }
    rows = {
        "map": lambda n: f"{SIZES[n]['D']['resolution']}²",
        "channels of its levels": lambda n: ", ".join(map(str, SIZES[n]["D"]["channels"])),
        "features of a vertex": lambda n: f"{SIZES[n]['D']['width']}",
        "blended tables": lambda n: f"{SIZES[n].get('tables', {}).get('tables', 'none')}",
        "longest edge at mouth and eyes": lambda n: (
            f"{1000 * SIZES[n]['edges']['longest']:g} mm" if "edges" in SIZES[n] else "as tracked"
        ),
        "bands of an offset": lambda n: f"{anchored[n]['bands']}",
        "networks of a sample": lambda n: (
            f"{anchored[n]['layers']} and {anchored[n]['merged_layers']} layers of {anchored[n]['hidden']}"
        ),
        "samples of a ray": lambda n: {"paper": "64 coarse, 64 fine", "cpu": "marched through an occupancy grid"}[n],
        "warp": lambda n: (
            f"{warp[n]['layers']} layers of {warp[n]['hidden']}, heads of {warp[n]['head_layers']}; "
            f"from step {warp[n]['start']:,}, bands open by {warp[n]['coarse_to_fine']:,}"
        ),
    }
    return [f"| {name} | {row('paper')} | {row('cpu')} |" for name, row in rows.items()]


def recipe_line() -> str:
    """The page's sentence on the recipe, from the code."""
    o = MONOAVATAR.options
    return (
        f"{o['frames']} frame a step, {o['samples']:,} samples, {o['rays']:,} rays at first; rates "
        f"{o['learning_rate']:g} for tables, {o['network_learning_rate']:g} for networks and "
        f"{MONOAVATAR.trainer['learning_rates']['warp']:g} for the warp, which fall to a tenth."
    )


def test_the_page_states_the_sizes_of_the_code() -> None:
    for row in (*size_rows(), recipe_line()):
        assert row in PAGE.replace("\n", " ") or row in PAGE, row
