"""Motion of one procedural head on another, as retargeting gives it, to drive an avatar with in place of the truth.

The heads share topology and expressions, so the truth is known: the head with the performer's coefficients. What
retargeting makes of the performer's meshes differs from it by what deformation transfer and the fit of the expression
lose.
"""

import torch

from headfields.apps.retargeting.retargeter import Retargeter
from headfields.apps.retargeting.sources import expressions_of_states, surface_of_head
from headfields.heads.flame.model import FlameHead
from headfields.records import HeadState


def retargeted_states(head: FlameHead, performer: FlameHead, performed: HeadState, trained: HeadState) -> HeadState:
    """The states of a head that follow from the meshes of a performer, who has another shape.

    Args:
        head, performer: of one topology.
        performed: B states of the performer, with vertices and the rotations of its joints, which are kept.
        trained: states of the head that avatars are trained on: their coefficients bound the fitted ones.

    Returns:
        B states of the head, with joint transforms of its own skeleton.
    """
    template = head.template()
    mouth = template.regions.get("mouth")
    vertices = None if mouth is None else template.faces[mouth].unique()
    retargeter = Retargeter(
        surface_of_head(performer), surface_of_head(head), expressions_of_states(trained, vertices), pose=True
    )
    moved = [retargeter(performed[rows]) for rows in torch.arange(len(performed)).split(32)]
    states = HeadState(
        vertices=torch.cat([each.vertices for each in moved]),
        expression=torch.cat([each.need("retargeted_states", "expression") for each in moved]),
        pose=torch.cat([each.need("retargeted_states", "pose") for each in moved]),
    )
    skeleton = head(expression=states.expression, pose=states.pose).joint_transforms
    return states.replace(joint_transforms=skeleton)
