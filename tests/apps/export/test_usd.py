"""Rigged meshes in USD, posed by USD's own skinning and compared vertex for vertex."""

import builtins
import zipfile

import numpy as np
import pytest
from PIL import Image

from headfields.apps.export import save_usd


@pytest.fixture(scope="module")
def pxr():
    return pytest.importorskip("pxr", reason="usd-core is not installed")


def test_baked_frames_are_as_here(pxr, rig, motion, tmp_path):
    from pxr import Gf, Usd, UsdGeom, UsdShade, UsdSkel

    stage = Usd.Stage.Open(str(save_usd(tmp_path / "head.usda", rig, motion)))
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1 and UsdGeom.GetStageUpAxis(stage) == "Y"
    assert stage.GetEndTimeCode() == 3 and stage.GetTimeCodesPerSecond() == pytest.approx(25, rel=1e-4)
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/head/mesh"))
    assert np.array_equal(np.array(mesh.GetPointsAttr().Get()), rig.mesh.vertices.numpy())
    st = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st")
    corners = np.array(st.ComputeFlattened()).reshape(-1, 3, 2)
    assert np.allclose(corners, rig.mesh.uv[rig.mesh.uv_faces].numpy())
    material, _ = UsdShade.MaterialBindingAPI(mesh.GetPrim()).ComputeBoundMaterial()
    texture = UsdShade.Shader(stage.GetPrimAtPath(f"{material.GetPath()}/texture")).GetInput("file").Get()
    with Image.open(texture.resolvedPath) as image:
        assert np.array_equal(np.asarray(image), (rig.mesh.texture * 255).round().byte().numpy())
    blends = UsdSkel.BindingAPI(mesh.GetPrim()).GetBlendShapesAttr().Get()
    assert list(blends) == list(rig.target_names)

    assert UsdSkel.BakeSkinning(UsdSkel.Root(stage.GetPrimAtPath("/head")), Gf.Interval(0, 3))
    expected = rig.posed(motion).numpy()
    for frame in range(4):
        baked = np.array(mesh.GetPointsAttr().Get(frame))
        assert np.abs(baked - expected[frame]).max() < 5e-6  # meters


def test_a_packed_file_holds_its_texture(pxr, rig, tmp_path):
    from pxr import Usd, UsdShade

    path = save_usd(tmp_path / "head.usdz", rig)
    assert [file.name for file in tmp_path.iterdir()] == ["head.usdz"]
    stage = Usd.Stage.Open(str(path))
    assert stage.GetPrimAtPath("/head/mesh").IsValid()
    with zipfile.ZipFile(path) as archive, archive.open("head.png") as file, Image.open(file) as image:
        assert np.array_equal(np.asarray(image), (rig.mesh.texture * 255).round().byte().numpy())
    texture = UsdShade.Shader(stage.GetPrimAtPath("/head/skin/texture")).GetInput("file").Get()
    assert texture.resolvedPath.endswith("head.usdz[head.png]")


def test_names_that_usd_does_not_allow(pxr, rig, tmp_path):
    from pxr import Usd, UsdSkel

    odd = rig.with_targets(rig.targets, ["1-smile", "1_smile", "jaw open"])
    stage = Usd.Stage.Open(str(save_usd(tmp_path / "odd.usdc", odd)))
    binding = UsdSkel.BindingAPI(stage.GetPrimAtPath("/head/mesh"))
    names = list(binding.GetBlendShapesAttr().Get())
    assert len(set(names)) == 3 and all(name.isidentifier() for name in names)


def test_without_usd(rig, tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest, **more):
        if name.split(".")[0] == "pxr":
            raise ImportError("No module named 'pxr'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ModuleNotFoundError, match=r"headfields\[export\]"):
        save_usd(tmp_path / "head.usd", rig)
    with pytest.raises(ValueError, match=r"expected \.usd or"):
        save_usd(tmp_path / "head.fbx", rig)
