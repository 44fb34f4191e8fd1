"""An independent evaluation of glTF: pygltflib reads the file, and the specification's formulas pose it."""

import numpy as np


class Posed:
    """A skinned mesh of a file that pygltflib has read."""

    def __init__(self, gltf) -> None:
        self.gltf, self.blob = gltf, gltf.binary_blob()
        node = next(n for n in gltf.nodes if n.mesh is not None)
        self.node = gltf.nodes.index(node)
        self.mesh = gltf.meshes[node.mesh]
        self.primitive = self.mesh.primitives[0]
        self.skin = None if node.skin is None else gltf.skins[node.skin]

    def array(self, index: int) -> np.ndarray:
        accessor = self.gltf.accessors[index]
        view = self.gltf.bufferViews[accessor.bufferView]
        kind = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}[accessor.componentType]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor.type]
        start = (view.byteOffset or 0) + (accessor.byteOffset or 0)
        flat = np.frombuffer(self.blob, kind, accessor.count * width, start)
        return flat.reshape(accessor.count, width) if width > 1 else flat

    def attribute(self, name: str) -> np.ndarray:
        attributes = self.primitive.attributes
        return self.array(attributes[name] if isinstance(attributes, dict) else getattr(attributes, name))

    @property
    def targets(self) -> np.ndarray:
        return np.stack([self.array(target["POSITION"]) for target in self.primitive.targets])

    def vertices(self, frame: int) -> np.ndarray:
        """The vertices (N, 3) at a key frame: targets, then the skin, as the specification says."""
        channels = self._channels(frame)
        points = self.attribute("POSITION").astype(np.float64)
        weights = channels.get((self.node, "weights"))
        if weights is not None:
            points = points + np.einsum("e,evk->vk", weights, self.targets.astype(np.float64))
        world = self._world(channels)
        inverse = self.array(self.skin.inverseBindMatrices).reshape(-1, 4, 4).transpose(0, 2, 1)  # stored by columns
        matrices = np.stack([world[j] @ b for j, b in zip(self.skin.joints, inverse, strict=True)])
        blend = np.einsum("vn,vnab->vab", self.attribute("WEIGHTS_0"), matrices[self.attribute("JOINTS_0")])
        return np.einsum("vab,vb->va", blend, np.concatenate([points, np.ones((len(points), 1))], 1))[:, :3]

    def _channels(self, frame: int) -> dict:
        out = {}
        for animation in self.gltf.animations:
            for channel in animation.channels:
                sampler = animation.samplers[channel.sampler]
                values = self.array(sampler.output)
                rows = values.reshape(len(self.array(sampler.input)), -1)
                out[channel.target.node, channel.target.path] = rows[frame].astype(np.float64)
        return out

    def _world(self, channels: dict) -> dict[int, np.ndarray]:
        def local(index: int) -> np.ndarray:
            node, matrix = self.gltf.nodes[index], np.eye(4)
            x, y, z, w = channels.get((index, "rotation"), np.array(node.rotation or (0, 0, 0, 1.0)))
            matrix[:3, :3] = [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
            matrix[:3, 3] = channels.get((index, "translation"), np.array(node.translation or (0.0, 0, 0)))
            return matrix

        world: dict[int, np.ndarray] = {}

        def visit(index: int, above: np.ndarray) -> None:
            world[index] = above @ local(index)
            for child in self.gltf.nodes[index].children or []:
                visit(child, world[index])

        for index in self.gltf.scenes[0].nodes:
            visit(index, np.eye(4))
        return world
