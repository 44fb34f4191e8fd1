"""The lights in which the browser draws meshes: few, because a page without a graphics card computes each."""

from typing import Any

from headfields.viz.mesh import SIDE_LIGHT

__all__ = ["light_scene"]

_GROUND = (150, 150, 150)
"""Color of the hemisphere's far side: what faces away from the light stays visible."""
_HEMISPHERE, _FRONT = 1.4, 2.4
"""Intensities of the lights."""


def light_scene(scene: Any) -> None:
    """A hemisphere light and a directional one, both from where `SIDE_LIGHT` is, without shadows.

    viser's own lighting reflects an environment map in every pixel, and in software that is most of a frame's time:
    docs/viewer.md has the figures.

    Args:
        scene: the scene of a server of viser's.
    """
    assert SIDE_LIGHT.direction is not None
    direction = SIDE_LIGHT.direction
    scene.configure_environment_map(None)
    scene.configure_default_lights(enabled=False, cast_shadow=False)
    scene.add_light_hemisphere("/lights/around", ground_color=_GROUND, intensity=_HEMISPHERE, position=direction)
    scene.add_light_directional("/lights/front", intensity=_FRONT, position=direction, cast_shadow=False)
