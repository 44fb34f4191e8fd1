"""A rigged mesh as USD: blend shapes, a skeleton and its animation (UsdSkel). Needs usd-core.

Source: OpenUSD's UsdSkel schemas; https://openusd.org/release/api/usd_skel_page_front.html
"""

import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from headfields.apps.export.gltf import check_rig, checked_path, continuous_quaternions
from headfields.apps.export.rigged_mesh import RiggedMesh, RigMotion, strongest_joints
from headfields.files.atomic import replacing, write_image

__all__ = ["USD_ENDINGS", "save_usd"]

USD_ENDINGS = (".usd", ".usda", ".usdc", ".usdz")


def save_usd(path: Path | str, rig: RiggedMesh, motion: RigMotion | None = None) -> Path:
    """Writes a rigged mesh as USD, with its motion as time samples.

    The texture is written next to the file as `NAME.png`, or into it (`.usdz`). Vertices keep their order and their
    four strongest joints. Names that USD does not allow are changed (`-` becomes `_`).

    Args:
        path: ends in `.usd`, `.usda` (text), `.usdc` or `.usdz`; its folder is made.
        rig: meters, y up.
        motion: frames, one for each time code; None: none.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: usd-core is missing.
        ValueError: another ending; no faces; a number that is not finite; or a motion of another rig.
        OSError: a file cannot be written.
    """
    path = checked_path(path, USD_ENDINGS, "save_usd")
    check_rig("save_usd", rig, motion)
    try:
        import pxr
    except ImportError as error:
        raise ModuleNotFoundError("save_usd needs usd-core: pip install 'headfields[export]'") from error
    rig = rig.map(lambda tensor: tensor.detach().cpu())
    image = None if rig.mesh.texture is None or rig.mesh.uv is None else path.with_suffix(".png").name
    packed = path.suffix.lower() == ".usdz"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draft = folder / (f"{path.stem}.usdc" if packed else path.name)
        _write_stage(draft, rig, motion, image, pxr)
        if image is not None:
            assert rig.mesh.texture is not None
            pixels = rig.mesh.texture.float().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
            write_image(folder / image if packed else path.with_suffix(".png"), pixels)
        if packed:
            from pxr import UsdUtils

            whole = folder / "whole.usdz"
            if not UsdUtils.CreateNewUsdzPackage(str(draft), str(whole)):
                raise OSError(f"save_usd: {path} cannot be packed by usd-core")
            draft = whole
        with replacing(path) as temporary:
            temporary.write_bytes(draft.read_bytes())
    return path


def _write_stage(path: Path, rig: RiggedMesh, motion: RigMotion | None, image: str | None, pxr: ModuleType) -> None:
    from pxr import Gf, Sdf, Usd, UsdGeom, UsdShade, UsdSkel, Vt

    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdSkel.Root.Define(stage, "/head")
    stage.SetDefaultPrim(root.GetPrim())
    mesh = UsdGeom.Mesh.Define(stage, "/head/mesh")
    vertices, faces = rig.mesh.vertices.float(), rig.mesh.faces
    mesh.CreatePointsAttr(_vectors(vertices))
    mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
    mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.int().numpy().reshape(-1)))
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreateExtentAttr(_vectors(torch.stack([vertices.amin(0), vertices.amax(0)])))
    mesh.CreateDoubleSidedAttr(True)
    mesh.CreateNormalsAttr(_vectors(rig.mesh.with_normals().normals))
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    primvars = UsdGeom.PrimvarsAPI(mesh)
    if rig.mesh.uv is not None:
        index = (faces if rig.mesh.uv_faces is None else rig.mesh.uv_faces).int().numpy().reshape(-1)
        st = primvars.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying)
        st.Set(Vt.Vec2fArray.FromNumpy(rig.mesh.uv.float().numpy()))
        st.SetIndices(Vt.IntArray.FromNumpy(index))
    elif rig.mesh.colors is not None:
        shown = primvars.CreatePrimvar("displayColor", Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex)
        shown.Set(_vectors(rig.mesh.colors))
    if image is not None:
        UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(_material(stage, image))

    paths: list[str] = []
    names = [pxr.Tf.MakeValidIdentifier(name) for name in rig.joint_names]
    for name, parent in zip(names, rig.parents, strict=True):
        paths.append(name if parent < 0 else f"{paths[parent]}/{name}")
    skeleton = UsdSkel.Skeleton.Define(stage, "/head/skeleton")
    skeleton.CreateJointsAttr(paths)
    places = rig.joints.double().tolist()
    local = [[a - b for a, b in zip(place, places[parent] if parent >= 0 else (0, 0, 0), strict=True)]
             for place, parent in zip(places, rig.parents, strict=True)]  # fmt: skip
    skeleton.CreateBindTransformsAttr(Vt.Matrix4dArray([Gf.Matrix4d(1).SetTranslate(Gf.Vec3d(*at)) for at in places]))
    skeleton.CreateRestTransformsAttr(Vt.Matrix4dArray([Gf.Matrix4d(1).SetTranslate(Gf.Vec3d(*at)) for at in local]))
    binding = UsdSkel.BindingAPI.Apply(mesh.GetPrim())
    binding.CreateSkeletonRel().SetTargets([skeleton.GetPath()])
    joint, weights = strongest_joints(rig.weights.float())
    binding.CreateJointIndicesPrimvar(False, joint.shape[1]).Set(Vt.IntArray.FromNumpy(joint.int().numpy().reshape(-1)))
    binding.CreateJointWeightsPrimvar(False, joint.shape[1]).Set(Vt.FloatArray.FromNumpy(weights.numpy().reshape(-1)))
    binding.CreateGeomBindTransformAttr(Gf.Matrix4d(1))

    tokens = _identifiers(rig.target_names, pxr)
    shapes = []
    for token, target in zip(tokens, rig.targets.float(), strict=True):
        shape = UsdSkel.BlendShape.Define(stage, f"/head/mesh/{token}")
        moved = (target.abs().amax(1) > 0).nonzero()[:, 0]
        shape.CreateOffsetsAttr(_vectors(target[moved]))
        shape.CreatePointIndicesAttr(Vt.IntArray.FromNumpy(moved.int().numpy()))
        shapes.append(shape.GetPath())
    if tokens:
        binding.CreateBlendShapesAttr(tokens)
        binding.CreateBlendShapeTargetsRel().SetTargets(shapes)
    if motion is not None and len(motion):
        _animate(stage, skeleton, motion, rig, paths, tokens)
    stage.GetRootLayer().Save()


def _animate(
    stage: Any, skeleton: Any, motion: RigMotion, rig: RiggedMesh, paths: list[str], tokens: list[str]
) -> None:
    from pxr import Gf, UsdSkel, Vt

    stage.SetTimeCodesPerSecond(motion.fps)
    stage.SetFramesPerSecond(motion.fps)
    stage.SetStartTimeCode(0)
    stage.SetEndTimeCode(len(motion) - 1)
    animation = UsdSkel.Animation.Define(stage, "/head/motion")
    animation.CreateJointsAttr(paths)
    if tokens:
        animation.CreateBlendShapesAttr(tokens)
    translations, rotations = animation.CreateTranslationsAttr(), animation.CreateRotationsAttr()
    animation.CreateScalesAttr(Vt.Vec3hArray([Gf.Vec3h(1, 1, 1)] * len(paths)))
    amounts = animation.CreateBlendShapeWeightsAttr()
    places = motion.joint_places(rig).double()
    turns = continuous_quaternions(places[..., :3, :3]).tolist()
    for frame in range(len(motion)):
        translations.Set(_vectors(places[frame, :, :3, 3].float()), frame)
        rotations.Set(Vt.QuatfArray([Gf.Quatf(w, x, y, z) for w, x, y, z in turns[frame]]), frame)
        if tokens:
            amounts.Set(Vt.FloatArray.FromNumpy(motion.target_weights[frame].float().numpy()), frame)
    UsdSkel.BindingAPI.Apply(skeleton.GetPrim()).CreateAnimationSourceRel().SetTargets([animation.GetPath()])


def _material(stage: Any, image: str) -> Any:
    from pxr import Sdf, UsdShade

    material = UsdShade.Material.Define(stage, "/head/skin")
    surface = UsdShade.Shader.Define(stage, "/head/skin/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(1.0)
    reader = UsdShade.Shader.Define(stage, "/head/skin/st")
    reader.CreateIdAttr("UsdPrimvarReader_float2")
    reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
    texture = UsdShade.Shader.Define(stage, "/head/skin/texture")
    texture.CreateIdAttr("UsdUVTexture")
    texture.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(f"./{image}")
    texture.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set("sRGB")
    coordinates = reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
    texture.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(coordinates)
    color = texture.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
    surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(color)
    material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", Sdf.ValueTypeNames.Token))
    return material


def _vectors(rows: Any) -> Any:
    from pxr import Vt

    return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(rows.detach().float().numpy()))


def _identifiers(names: tuple[str, ...], pxr: ModuleType) -> list[str]:
    """Names that USD allows, all different."""
    made: list[str] = []
    for name in names:
        token = candidate = pxr.Tf.MakeValidIdentifier(name)
        number = 2
        while candidate in made:
            candidate, number = f"{token}_{number}", number + 1
        made.append(candidate)
    return made
