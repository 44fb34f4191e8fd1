"""Blendshape heads: template + identity and expression blendshapes, as in ICT-FaceKit and ARKit rigs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.files.arrays import load_arrays
from headfields.files.checked import check_names, checked_arrays, names_in, whole_numbers
from headfields.files.reading import reading
from headfields.heads.mouth.border import mouth_loop
from headfields.heads.mouth.closing import close_mouth
from headfields.ops._checks import check_floating, common_batch
from headfields.ops.rotations import rotation_matrices
from headfields.ops.skinning import blend_shapes
from headfields.records import HeadState, Template, check_meters
from headfields.records.device_copy import Movable
from headfields.records.precision import full_precision

__all__ = ["BlendshapeHead"]


class BlendshapeHead(Movable):
    """vertices = template + identity coefficients x identities + expression coefficients x expressions.

    All arrays are buffers; nothing is trainable. Meters, y up, face toward +z.

    Attributes:
        template_vertices (V, 3); faces (F, 3) int64; expression_basis (E, V, 3); identity_basis (I, V, 3), I may be 0.
        expression_names: E names, or ().
        landmark_vertices: (L,) vertex ids, or None.
    """

    template_vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    expression_basis: Float[Tensor, "e v 3"]
    identity_basis: Float[Tensor, "i v 3"]
    landmark_vertices: Int[Tensor, " l"] | None

    def __init__(
        self,
        template: Float[Tensor, "v 3"],
        faces: Int[Tensor, "f 3"],
        expression: Float[Tensor, "e _ 3"],
        identity: Float[Tensor, "i _ 3"] | None = None,
        expression_names: tuple[str, ...] = (),
        landmarks: Int[Tensor, " l"] | None = None,
    ) -> None:
        """Registers the arrays as buffers, as float32 and int64.

        Raises:
            ValueError: shapes do not fit, an index is out of range, or the number of names differs from E.
        """
        super().__init__()
        count = template.shape[0]
        if identity is None:
            identity = template.new_zeros((0, count, 3))
        for name, basis in (("expression", expression), ("identity", identity)):
            if basis.dim() != 3 or basis.shape[1:] != (count, 3):
                raise ValueError(
                    f"BlendshapeHead: {name} has shape {tuple(basis.shape)}; expected (C, {count}, 3) for a template "
                    f"of {count} vertices"
                )
        for name, index in (("faces", faces), ("landmarks", landmarks)):
            if index is not None and index.numel() and not 0 <= int(index.min()) <= int(index.max()) < count:
                raise ValueError(f"BlendshapeHead: {name} has vertex ids outside [0, {count})")
        if expression_names and len(expression_names) != len(expression):
            raise ValueError(
                f"BlendshapeHead: {len(expression_names)} expression_names for {len(expression)} expressions"
            )
        self.register_buffer("template_vertices", template.float())
        self.register_buffer("faces", faces.long())
        self.register_buffer("expression_basis", expression.float())
        self.register_buffer("identity_basis", identity.float())
        self.register_buffer("landmark_vertices", None if landmarks is None else landmarks.long())
        self.expression_names = tuple(expression_names)

    @classmethod
    def from_file(cls, path: str | Path) -> "BlendshapeHead":
        """Reads an npz with template (V, 3), faces (F, 3), expression (E, V, 3) and, optionally, identity (I, V, 3),
        expression_names (E,) and landmarks (L,) vertex ids; meters.

        Raises:
            FileNotFoundError: no such file.
            UnsafePickleError: the file could run code.
            ValueError: a key (named) is missing, is not numeric or not finite, or has the wrong shape; an index is not
                whole or out of range; a name occurs twice; the template is not in meters.
        """
        with reading(path, "a file of blendshapes"):
            return cls._of(load_arrays(path), f"BlendshapeHead.from_file: {path}")

    @classmethod
    def _of(cls, raw: dict[str, Any], where: str) -> "BlendshapeHead":
        arrays = checked_arrays(where, raw, {"template": "V 3", "faces": "F 3", "expression": "E V 3"}, ("faces",))
        arrays |= checked_arrays(where, raw, {"identity": "I V 3", "landmarks": "L"}, ("landmarks",), optional=True)
        count = len(arrays["template"])
        check_meters(where, "template", torch.from_numpy(arrays["template"]))
        names = names_in(raw, "expression_names", where)
        check_names(names, len(arrays["expression"]), f"{where}: expression_names", "expressions")
        for key in ("faces", "landmarks"):
            if key in arrays:
                whole_numbers(arrays[key], f"{where}: {key}", count, "vertices in template")

        def tensor(key: str) -> Tensor | None:
            return torch.from_numpy(arrays[key]) if key in arrays else None

        template, faces, expression = (torch.from_numpy(arrays[key]) for key in ("template", "faces", "expression"))
        try:
            return cls(template, faces, expression, tensor("identity"), names, tensor("landmarks"))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    def forward(
        self,
        identity: Float[Tensor, "_ _"] | None = None,
        expression: Float[Tensor, "_ _"] | None = None,
        rotation: Float[Tensor, "_ 3"] | None = None,
        translation: Float[Tensor, "_ 3"] | None = None,
    ) -> HeadState:
        """Evaluates the head.

        Args:
            identity: (B, I) or (1, I). Zero if None, as are the others.
            expression: (B, E) or (1, E).
            rotation: (B, 3) axis-angle about the origin, radians.
            translation: (B, 3) meters, added last.

        Returns:
            HeadState of B frames: `vertices`, `expression`, and `pose` (B, 1, 3) if there is a rotation.

        Raises:
            TypeError, ValueError: an argument's dtype or shape does not fit; batch sizes differ and are not 1.

        Differentiability: any order in every argument.

        >>> import torch, headfields as hf
        >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
        >>> shift = torch.ones(1, 3, 3)
        >>> head = hf.heads.BlendshapeHead(corners, torch.tensor([[0, 1, 2]]), expression=shift)
        >>> head(expression=torch.tensor([[0.0], [0.5]])).vertices[1, 0].tolist()
        [0.5, 0.5, 0.5]
        """
        widths = {"identity": len(self.identity_basis), "expression": len(self.expression_basis)}
        arguments = {"identity": identity, "expression": expression, "rotation": rotation, "translation": translation}
        for name, value in arguments.items():
            if value is None:
                continue
            check_floating("BlendshapeHead", name, value)
            width = widths.get(name, 3)
            if value.dim() != 2 or value.shape[1] != width:
                raise ValueError(f"BlendshapeHead: {name} has shape {tuple(value.shape)}; expected (B, {width})")
        batch = common_batch("BlendshapeHead", **arguments)
        vertices = self.template_vertices
        if identity is not None:
            vertices = vertices + blend_shapes(identity, self.identity_basis)
        if expression is None:
            expression = self.template_vertices.new_zeros((1, len(self.expression_basis)))
        else:
            vertices = vertices + blend_shapes(expression, self.expression_basis)
        vertices = vertices.expand(batch, -1, -1)
        if rotation is not None:
            rotation = rotation.expand(batch, -1)
            with full_precision(vertices):
                vertices = vertices @ rotation_matrices(rotation).transpose(-1, -2)
        if translation is not None:
            vertices = vertices + translation[:, None]
        pose = None if rotation is None else rotation[:, None]
        return HeadState(vertices=vertices, expression=expression.expand(batch, -1), pose=pose)

    def expression(self, **weights: float) -> Float[Tensor, "1 e"]:
        """Expression coefficients (1, E) by name: `head.expression(jawOpen=0.45)`.

        Raises:
            ValueError: the head lacks a name.
        """
        return self._coefficients(weights)

    def _coefficients(self, weights: Mapping[str, float]) -> Tensor:
        unknown = sorted(set(weights) - set(self.expression_names))
        if unknown:
            raise ValueError(
                f"BlendshapeHead.expression: no direction is called {', '.join(unknown)}; "
                f"there are {', '.join(self.expression_names) or 'no names'}"
            )
        out = self.template_vertices.new_zeros((1, len(self.expression_basis)))
        for name, weight in weights.items():
            out[0, self.expression_names.index(name)] = weight
        return out

    def template(
        self,
        identity: Float[Tensor, "_ _"] | None = None,
        expression: Mapping[str, float] | None = None,
        loop: Int[Tensor, " l"] | None = None,
    ) -> Template:
        """The canonical mesh of an avatar, the mouth closed by faces between the lips.

        Args:
            identity: (1, I).
            expression: the canonical expression by name, best with the lips apart: `{"jawOpen": 0.45}`. Neutral if
                None.
            loop: the inner-lip border; `mouth_loop` finds it if None.

        Returns:
            Template with one region, "mouth": the closing faces and all faces with a vertex within 1.25 times half the
            mouth's width of its center. Blendshapes do not determine "face", "eyes" and "neck".

        Raises:
            ValueError: no border looks like a mouth, or `expression` has an unknown name.
        """
        coefficients = self._coefficients(expression) if expression else None
        vertices = self(identity=identity, expression=coefficients).vertices[0]
        if loop is None:
            loop = mouth_loop(self.faces, self.template_vertices)
        faces, new = close_mouth(self.faces, loop, vertices)
        border = self.template_vertices[loop]
        reach = 0.5 * (border[:, 0].amax() - border[:, 0].amin()) * 1.25
        near = (self.template_vertices - border.mean(0)).norm(dim=1) < reach
        mouth = near[faces].any(1) | new
        return Template(
            vertices, faces, {"mouth": mouth}, face_count=len(self.faces), expression_width=len(self.expression_basis)
        )

    def landmarks(self, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "b l 3"]:
        """The landmarks on posed vertices, meters.

        Raises:
            ValueError: the head has none.
        """
        if self.landmark_vertices is None:
            raise ValueError("BlendshapeHead.landmarks: the file has no landmarks")
        return vertices[:, self.landmark_vertices]
