"""Names that other names or places have replaced since 0.5: they work for one more version, with a warning.

`docs/stability.md` says how long a name lives. Each namespace looks here for what it does not have.
"""

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from headfields.similar_names import did_you_mean

_RENAMED = {
    "headfields.mesh": {"subdivided": "subdivide", "unwrapped": "unwrap_template"},
    "headfields.ops": {
        "Splatted": "rasterize_gaussians.RasterizedGaussians", "lookup": "lookup_occupancy", "march": "march_occupancy",
        "merge": "merge_samples", "splat": "rasterize_gaussians",
    },
}  # fmt: skip
"""New names, by namespace and old name."""

_ARGUMENTS = {
    "headfields.ops.splat": {
        "screen": "means2d_offset", "screen_absolute": "means2d_absgrad", "room": "max_tile_entries",
    },
}  # fmt: skip
"""New names of arguments, by the function's old name."""

_MOVED: Mapping[str, Mapping[str, str]] = {
    "headfields": {
        "apps.priors.prior": "Prior load_prior",
        "records": "Correction DistortedCameraError Features ImageBatch PixelBatch",
    },
    "headfields.apps.export": {
        "apps.export.arkit": "ARKIT_NAMES arkit_rig read_mapping",
        "apps.export.captures": "fit_motion head_poses",
        "apps.export.gltf": "save_gltf_splats",
        "apps.export.heads": "motion_of_head",
        "apps.export.rigged_mesh": "RigMotion RiggedMesh strongest_joints",
        "apps.export.textures": "texture_of_avatar texture_of_capture",
    },
    "headfields.apps.priors": {
        "apps.priors.code_statistics": "CodeStatistics PriorStatistics",
        "apps.priors.code_table": "CodeTable",
        "apps.priors.codes": "PriorCodes",
        "apps.priors.evaluate": "SurfaceErrors surface_errors",
        "apps.priors.fit": "FIT_WEIGHTS FittedCodes",
        "apps.priors.losses": "PriorWeights prior_terms",
        "apps.priors.recipes": "PriorRecipe SMALL_POINTS_RECIPE",
        "apps.priors.schedule": "PriorSchedule",
        "apps.priors.trainer": "PriorResult",
    },
    "headfields.apps.priors.scans": {
        "apps.priors.scans.batch": "PointCounts ScanBatch ScanSet",
        "apps.priors.scans.meshes": "MeshScans",
        "apps.priors.scans.nphm": "NphmScans nphm_to_raw read_nphm",
        "apps.priors.scans.points": "PointScans",
    },
    "headfields.apps.retargeting": {
        "apps.retargeting.binding": "Binding bind",
        "apps.retargeting.deformation_transfer": "Correspondence DeformationTransfer",
        "apps.retargeting.expression_fit": "ExpressionFit regress_expressions",
        "apps.retargeting.head_surface": "Eyeball HeadSurface",
        "apps.retargeting.lid_follower": "LidFollower",
        "apps.retargeting.lids": "LidAperture find_lids",
        "apps.retargeting.deformation_gradients": "pose_gradients",
        "apps.retargeting.retargeter": "rest_camera",
        "apps.retargeting.sources": "expressions_of_capture find_landmarks surface_of_capture surface_of_head",
        "apps.retargeting.thin_plate": "ThinPlateWarp",
    },
    "headfields.apps.rigging": {
        "apps.rigging.attribute_transfer": (
            "correspond transfer_displacements transfer_landmarks transfer_regions transfer_uv transfer_values "
            "weld_groups"
        ),
        "apps.rigging.landmarks": "LANDMARK_NAMES ScanLandmarks find_scan_landmarks read_scan_landmarks",
        "apps.rigging.lips": "LipCut cut_lips lip_sides lips_parted",
        "apps.rigging.mesh_repair": "close_pinholes join_seams",
        "apps.rigging.pictures": "rig_pictures",
        "apps.rigging.registration": "DEFAULT_STAGES Registration Stage register",
        "apps.rigging.rig": "Rigging",
    },
    "headfields.apps.texturing": {
        "apps.texturing.bake": "BakedTexture bake_texture",
        "apps.texturing.exposure": "view_gains",
        "apps.texturing.images": "PosedImages",
        "apps.texturing.proxy": "TexturedProxy texture_pictures",
        "apps.texturing.refine": "RefineOptions RefinedMesh refine_mesh",
    },
    "headfields.apps.tracking": {
        "apps.tracking.failures": "FrameFailure",
        "apps.tracking.frame_fit": "FrameFit",
        "apps.tracking.frame_source": "FrameSource",
        "apps.tracking.head.identity": "HeadIdentity fit_identity",
        "apps.tracking.head.rig": "HeadModel",
        "apps.tracking.head.tracked_head": "write_tracked_head",
        "apps.tracking.pose_from_landmarks": "landmark_pose",
        "apps.tracking.loop": "FrameTracker FrameTurn Tracking",
        "apps.tracking.prior.fit": "PriorFit",
        "apps.tracking.prior.head": "PriorHead TrackingPrior",
        "apps.tracking.prior.landmarks": "LandmarkDetector LandmarkPoints TRACKED_LANDMARKS",
        "apps.tracking.prior.load": "prior_landmarks",
        "apps.tracking.prior.mononphm_layout": "MonoNPHMFrame read_mononphm write_mononphm",
        "apps.tracking.prior.observation": "FACER_LABELS LabelClasses PriorObservation",
        "apps.tracking.prior.options": "EnergyWeights Stage1 Stage2 SteppedRate WeightSchedule",
        "apps.tracking.rig.adapted": "AdaptedTemplate",
        "apps.tracking.rig.body": "BodyPose TrackedBody",
        "apps.tracking.rig.fit": "RigFit",
        "apps.tracking.rig.observation": "RigObservation",
        "apps.tracking.rig.options": "Adaptation TermScales",
        "apps.tracking.rig.tracked_capture": "write_tracked_capture",
    },
    "headfields.apps.viewer": {
        "apps.viewer.articulation": "Articulation BasisArticulation Control HeadArticulation Rigid",
        "apps.viewer.looks": "Picture",
        "apps.viewer.motion": "Motion",
        "apps.viewer.mesh_painter": "MeshPainter",
        "apps.viewer.progressive": "ProgressiveRenderer",
        "apps.viewer.scene": "Scene View",
    },
    "headfields.data": {
        "data.balance": "view_yaw",
        "data.formats.gaussian_ply": "load_flame_parameters save_flame_parameters",
        "data.formats.insta_writer": "CapturedFrame write_insta",
        "data.formats.metrical_tracker": (
            "MetricalTrackerFrame MetricalTrackerHead read_metrical_frame read_metrical_frames"
        ),
        "data.formats.mononphm": "MonoNPHMSequence",
        "data.formats.nerface": "NeRFaceRecording",
        "data.head_frame": "HeadFrame HeadMotion head_motion head_pose rigid_vertices to_head_frame",
        "data.joint_fit": "fit_joint_transforms",
        "data.labels": "REGION_LABELS",
        "data.hair_extent": "matter_extent",
        "data.untracked": "UntrackedRecording",
        "apps.capturing.recording_files": "load_untracked write_untracked",
        "apps.capturing.mesh_labels": "with_mesh_labels",
        "apps.capturing.prepare": "prepare_recording",
        "apps.capturing.video": "open_video",
        "apps.export.save_vhap": "VhapExport save_vhap",
    },
    "headfields.data.detectors": {
        "apps.capturing.detectors.files": "DetectionFiles",
        "apps.capturing.detectors.mediapipe": "MediaPipeFaces MediaPipeSegmenter",
        "apps.capturing.detectors.onnx": "OnnxDetector",
        "data.ibug_landmarks": "IBUG_OF_MEDIAPIPE ibug_points",
        "apps.capturing.detectors.protocol": "Detector",
    },
    "headfields.deformers": {
        "deformers.mesh_deformer": "MeshDeformer",
        "deformers.skinning": "SkinningDeformer SkinningSolution",
    },
    "headfields.files": {
        "files.arrays": "load_arrays",
        "files.reading": "UnsafePickleError",
        "files.safetensors": "BrokenFileError",
        "files.unpickler": "to_array",
    },
    "headfields.heads": {
        "heads.flame.assets": "FlameAssets",
        "apps.export.flame": "FlameConversion convert_flame",
        "heads.landmarks": "ContourLandmarks LandmarkEmbedding Landmarks",
        "heads.mouth.border": "mouth_loop",
        "heads.mouth.closing": "close_mouth",
        "heads.mouth.inner": "FLAME_INNER_LIPS InnerMouth",
        "ops.mesh_topology": "boundary_loops",
    },
    "headfields.interop": {
        "interop.cameras": (
            "NerfstudioCameras PyTorch3DCameras SmplifyCamera from_smplify from_weak_perspective to_clip to_smplify"
        ),
    },
    "headfields.losses": {
        "losses.silhouette": "ObservedSilhouette observe_silhouette silhouette_distance",
    },
    "headfields.mesh": {
        "mesh.distances": "SurfaceDistances SurfaceTree",
        "mesh.extract": "on_surface",
        "mesh.field_source": "DENSITY_LEVEL FieldSource",
        "mesh.files": "FORMATS",
        "mesh.icp": "Alignment",
        "mesh.isosurface": "SparseSurface",
        "mesh.mesh": "SurfacePoints",
        "mesh.obj": "MeshFileError",
        "mesh.seams": "SplitVertices",
        "mesh.subdivision": "Subdivision",
    },
    "headfields.metrics": {
        "metrics.image": "load_lpips lpips_installed",
        "metrics.surface": "GeometryMetrics OneWay",
    },
    "headfields.models": {
        "models.baselines": "AverageTexture",
        "models.insta": "INSTA_RELEASED",
    },
    "headfields.networks": {
        "networks.anchors": "AnchoredCode",
        "networks.ensemble": "Ensemble",
        "networks.field_basis": "BasisFields",
        "networks.unet": "MapDecoder ResidualUNet",
    },
    "headfields.ops": {
        "ops.affine": "affine_inverse apply_affine skin_points",
        "ops.antialias": "Crossings MeshEdges mesh_edges silhouette_crossings",
        "ops.compositing": "exclusive_sum ray_offsets",
        "ops.frequency": "frequency_window",
        "ops.grouped": "GroupedRows group_rows",
        "ops.interpolate_rows": "scatter_rows",
        "ops.marching_cubes": "Isosurface",
        "ops.nearest_vertices": "NearestVertices inverse_distance_weights",
        "ops.rasterize_gaussians": "RasterizedGaussians",
        "ops.ray_box": "ray_sphere",
        "ops.rigid": "nearest_rotation rigid_transform",
        "ops.rotations": "axis_angle left_jacobian rotation_from_log_quaternion rotations_from",
        "ops.sampling": "uniform_step",
        "ops.similarity": "Similarity fit_similarity",
        "ops.skinning": "pose_features",
        "ops.surface_alpha": "laplace_density unclamped_alpha",
        "ops.texture": "MipPyramid fill_texels mip_pyramid pad_charts",
        "ops.triangle_bvh": "ClosestPoint",
        "ops.triangle_frames": "deformation_gradients",
        "ops.undistort": "undistort_image undistort_pixels",
        "ops.mesh_topology": "edge_neighbors",
        "ops.vertex_geometry": "triangle_areas vertex_areas",
    },
    "headfields.renderers": {
        "renderers.lighting": "Shading",
        "renderers.mesh": "MeshRendering",
        "renderers.occupancy_grid": "OccupancyGrid",
        "renderers.sharpness": "Sharpness",
        "renderers.surface_alpha": "SurfaceAlpha",
    },
    "headfields.runs": {
        "runs.ema": "ExponentialMovingAverage",
        "runs.folder": "RunFolder RunWriteError",
        "runs.lock": "RunLockedError",
    },
    "headfields.synthetic": {
        "synthetic.body.model": "procedural_body_arrays",
        "synthetic.body.person": "procedural_rig",
        "synthetic.body.texture": "procedural_body_texture",
        "synthetic.detector_noise": "DetectorNoise",
        "synthetic.head.model": "procedural_head_arrays",
        "synthetic.head.texture": "procedural_head_texture",
        "synthetic.rig_tracking_error": "RigTrackingError",
        "synthetic.scans.sampler": "HeadSampler",
        "synthetic.tracking_error": "TrackingError",
    },
    "headfields.parts": {"part_names": "import_parts part_class part_name"},
    "headfields.training": {
        "runs.progress": "NanLossError",
        "training.evaluation": "picture",
        "training.live": "LiveFrames",
        "training.preset_losses": "blendfield_losses gaussian_avatars_losses",
        "training.processes": "PeerError",
        "training.recipes": "Recipe",
        "training.refinement": "Refinement correct_pose refine_frame",
        "apps.capturing.requirements": "Requirement capture_requirements",
        "training.results": "FitResult StepOutcome",
    },
    "headfields.viz": {
        "viz.clips": "Clip Grid",
        "viz.heat": "heat_legend",
        "viz.mesh": "HEADLIGHT Light SIDE_LIGHT",
        "viz.video": "write_transparent_video",
    },
}
"""Names that are no longer exported, by namespace and by the module (below `headfields`) that has them."""


def deprecated_names(namespace: str) -> Callable[[str], Any]:
    """The `__getattr__` of a namespace: its old names, each with a DeprecationWarning that says the new one."""
    homes = {name: module for module, names in _MOVED.get(namespace, {}).items() for name in names.split()}

    def attribute(name: str) -> Any:
        new = _RENAMED.get(namespace, {}).get(name)
        target = f"headfields.{homes[name]}.{name}" if name in homes else new and f"{namespace}.{new}"
        if not target:
            public = getattr(sys.modules.get(namespace), "__all__", ())
            hint = "" if name.startswith("_") else did_you_mean(name, [*public, *homes])
            raise AttributeError(f"module {namespace!r} has no attribute {name!r}{hint}")
        warnings.warn(
            f"{namespace}.{name} is {target} now; the old name goes with 1.0", DeprecationWarning, stacklevel=2
        )
        module, _, attribute = target.rpartition(".")
        value = getattr(importlib.import_module(module), attribute)
        arguments = _ARGUMENTS.get(f"{namespace}.{name}")
        return _with_old_arguments(value, arguments) if arguments else value

    return attribute


def _with_old_arguments(function: Callable[..., Any], new: Mapping[str, str]) -> Callable[..., Any]:
    """The function, taking old names of arguments too."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{new.get(name, name): value for name, value in kwargs.items()})

    return call
