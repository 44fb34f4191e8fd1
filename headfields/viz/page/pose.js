"use strict";
// Poses the head and its Gaussians, sorts and projects them. Runs in a worker, or in the page where there is none: a
// graphics card would project them too, but WebGL in software spends most of a picture's time on that.
// The definitions are those of the library: HeadRig (rigs.py, rig_vertices), TriangleBinding, SplatDecoder,
// BlendCoefficients, and the projection of ops/reference/rasterize_gaussians.py. Lengths are meters, rotations quaternions (w, x, y, z), angles radians.

const DRAWN = 12; // numbers of a Gaussian on screen, see project
const ROW = 16; // numbers of a posed Gaussian: x y z opacity | quaternion | scales, 0 | color, 0

class Poser {
  constructor(info, arrays) {
    this.info = info;
    this.a = arrays;
    this.count = info.avatar.count;
    this.vertexCount = arrays.neutral.length / 3;
    this.vertices = new Float64Array(3 * this.vertexCount);
    this.rows = new Float32Array(ROW * this.count);
    this.depth = new Float32Array(this.count);
    this.keys = new Uint32Array(this.depth.buffer);
    this.order = new Uint32Array(this.count);
    this.swap = new Uint32Array(this.count);
    this.opacity = Float32Array.from(arrays.opacity_logit, (x) => 1 / (1 + Math.exp(-x)));
    this.used = Uint32Array.from(new Set(arrays.face)).sort();
    this.frames = new Float64Array(17 * (arrays.faces.length / 3)); // rotation 9, origin 3, quaternion 4, size 1
    if (info.avatar.decoder) this.prepareDecoder();
  }

  // state: {expression: [E], pose: [3 J] axis-angle, codes: {name: [...]}}
  pose(state) {
    this.poseMesh(state);
    this.poseTriangles();
    this.poseGaussians(state);
  }

  poseMesh(state) {
    const { info, a, vertices } = this, rig = info.rig;
    vertices.set(a.neutral);
    addShapes(vertices, a.expression, state.expression);
    for (const name of rig.codes) addShapes(vertices, a["code_" + name], state.codes[name]);
    if (!rig.poseJoints.length && !rig.parents.length) return;
    const pose = Float64Array.from(state.pose, (angle, i) => angle + (a.mean_pose ? a.mean_pose[i] : 0));
    const turns = [];
    for (let j = 0; 3 * j < pose.length; j++) turns.push(rotation(pose[3 * j], pose[3 * j + 1], pose[3 * j + 2]));
    const features = [];
    for (const j of rig.poseJoints) turns[j].forEach((x, i) => features.push(x - (i % 4 === 0 ? 1 : 0)));
    if (features.length) addShapes(vertices, a.correctives, features);
    if (rig.parents.length) this.skin(turns, state.expression);
  }

  skin(turns, expression) {
    const { a, vertices } = this, parents = this.info.rig.parents, joints = Float64Array.from(a.joints);
    addShapes(joints, a.joint_shapes, expression);
    const linear = [], shift = []; // of each joint, from rest to posed
    const placed = [];
    parents.forEach((parent, j) => {
      const at = [joints[3 * j], joints[3 * j + 1], joints[3 * j + 2]];
      if (parent < 0) {
        linear.push(turns[j]);
        placed.push(at);
      } else {
        const offset = at.map((x, k) => x - joints[3 * parent + k]);
        linear.push(product(linear[parent], turns[j]));
        placed.push(applied(linear[parent], offset).map((x, k) => x + placed[parent][k]));
      }
      shift.push(applied(linear[j], at).map((x, k) => placed[j][k] - x));
    });
    const weights = a.weights, count = parents.length;
    for (let v = 0; v < this.vertexCount; v++) {
      const x = vertices[3 * v], y = vertices[3 * v + 1], z = vertices[3 * v + 2];
      let px = 0, py = 0, pz = 0;
      for (let j = 0; j < count; j++) {
        const w = weights[count * v + j];
        if (w === 0) continue;
        const m = linear[j], t = shift[j];
        px += w * (m[0] * x + m[1] * y + m[2] * z + t[0]);
        py += w * (m[3] * x + m[4] * y + m[5] * z + t[1]);
        pz += w * (m[6] * x + m[7] * y + m[8] * z + t[2]);
      }
      vertices[3 * v] = px;
      vertices[3 * v + 1] = py;
      vertices[3 * v + 2] = pz;
    }
  }

  // The frame of each triangle that carries Gaussians: columns first edge, normal, normal x bitangent; its size and
  // centroid. Where it has collapsed, directions fall back as in the library's triangle_frames.
  poseTriangles() {
    const { vertices: v, frames: f } = this, faces = this.a.faces;
    const similarity = this.info.avatar.follows === "similarity";
    for (const face of this.used) {
      const a = 3 * faces[3 * face], b = 3 * faces[3 * face + 1], c = 3 * faces[3 * face + 2], o = 17 * face;
      const ex = v[b] - v[a], ey = v[b + 1] - v[a + 1], ez = v[b + 2] - v[a + 2];
      const gx = v[c] - v[a], gy = v[c + 1] - v[a + 1], gz = v[c + 2] - v[a + 2];
      const t = direction(ex, ey, ez, [1, 0, 0]);
      const along = gx * t[0] + gy * t[1] + gz * t[2];
      let bitangent = direction(gx - along * t[0], gy - along * t[1], gz - along * t[2], null);
      if (!bitangent) {
        const [x, y, z] = t.map(Math.abs), axis = x <= y && x <= z ? [1, 0, 0] : y <= z ? [0, 1, 0] : [0, 0, 1];
        const side = cross(t, axis), length = Math.hypot(...side);
        bitangent = cross(side.map((x) => x / length), t);
      }
      const n = cross(t, bitangent);
      const length = ex * t[0] + ey * t[1] + ez * t[2];
      const height = gx * bitangent[0] + gy * bitangent[1] + gz * bitangent[2];
      const m = [t[0], n[0], -bitangent[0], t[1], n[1], -bitangent[1], t[2], n[2], -bitangent[2]];
      for (let k = 0; k < 9; k++) f[o + k] = m[k];
      for (let k = 0; k < 3; k++) f[o + 9 + k] = (v[a + k] + v[b + k] + v[c + k]) / 3;
      quaternionOf(m, f, o + 12);
      f[o + 16] = similarity ? Math.max(0.5 * (length + height), 1e-7) : 1;
    }
  }

  poseGaussians(state) {
    const { a, count, rows, frames: f, opacity: own, vertices: v } = this, avatar = this.info.avatar;
    const offsets = this.offsets(state), faces = a.faces;
    const anchored = avatar.follows !== "similarity", turned = avatar.follows !== "translation";
    const { position, quaternion, log_scale, color, opacity_logit } = offsets;
    for (let i = 0; i < count; i++) {
      const o = 17 * a.face[i], r = ROW * i;
      let x = a.position[3 * i], y = a.position[3 * i + 1], z = a.position[3 * i + 2];
      if (position) { x += position[3 * i]; y += position[3 * i + 1]; z += position[3 * i + 2]; }
      let q0 = a.quaternion[4 * i], q1 = a.quaternion[4 * i + 1], q2 = a.quaternion[4 * i + 2], q3 = a.quaternion[4 * i + 3];
      if (quaternion) {
        q0 += quaternion[4 * i]; q1 += quaternion[4 * i + 1]; q2 += quaternion[4 * i + 2]; q3 += quaternion[4 * i + 3];
      }
      let ox, oy, oz;
      if (anchored) {
        const u = a.barycentric[2 * i], w = a.barycentric[2 * i + 1], s = 1 - u - w, t = 3 * a.face[i];
        const p = 3 * faces[t], p1 = 3 * faces[t + 1], p2 = 3 * faces[t + 2];
        ox = s * v[p] + u * v[p1] + w * v[p2];
        oy = s * v[p + 1] + u * v[p1 + 1] + w * v[p2 + 1];
        oz = s * v[p + 2] + u * v[p1 + 2] + w * v[p2 + 2];
      } else { ox = f[o + 9]; oy = f[o + 10]; oz = f[o + 11]; }
      const size = f[o + 16];
      if (turned) {
        rows[r] = size * (f[o] * x + f[o + 1] * y + f[o + 2] * z) + ox;
        rows[r + 1] = size * (f[o + 3] * x + f[o + 4] * y + f[o + 5] * z) + oy;
        rows[r + 2] = size * (f[o + 6] * x + f[o + 7] * y + f[o + 8] * z) + oz;
        const w = f[o + 12], b = f[o + 13], c = f[o + 14], d = f[o + 15];
        rows[r + 4] = w * q0 - b * q1 - c * q2 - d * q3;
        rows[r + 5] = w * q1 + b * q0 + c * q3 - d * q2;
        rows[r + 6] = w * q2 - b * q3 + c * q0 + d * q1;
        rows[r + 7] = w * q3 + b * q2 - c * q1 + d * q0;
      } else {
        rows[r] = ox + x; rows[r + 1] = oy + y; rows[r + 2] = oz + z;
        rows[r + 4] = q0; rows[r + 5] = q1; rows[r + 6] = q2; rows[r + 7] = q3;
      }
      rows[r + 3] = opacity_logit ? 1 / (1 + Math.exp(-a.opacity_logit[i] - opacity_logit[i])) : own[i];
      for (let k = 0; k < 3; k++) {
        const more = log_scale ? log_scale[3 * i + k] : 0, tint = color ? color[3 * i + k] : 0;
        rows[r + 8 + k] = size * Math.exp(a.log_scale[3 * i + k] + more);
        rows[r + 12 + k] = a.color[3 * i + k] + tint;
      }
    }
  }

  // What the networks add to the Gaussians' parameters, by name.
  offsets(state) {
    const { avatar } = this.info, out = {};
    if (avatar.decoder) this.decode(state, out);
    if (avatar.blend) {
      const inputs = frameInputs(avatar.blend.inputs, state);
      let weights = network(avatar.blend.layers, this.a, inputs);
      if (avatar.blend.centered) {
        const still = network(avatar.blend.layers, this.a, new Float64Array(inputs.length));
        weights = weights.map((x, k) => x - still[k]);
      }
      for (const [name, width] of [["position", 3], ["quaternion", 4], ["color", 3]]) {
        const table = this.a["blend_" + name], fields = weights.length;
        const sum = out[name] || (out[name] = new Float32Array(width * this.count));
        for (let i = 0; i < this.count; i++)
          for (let d = 0; d < width; d++) {
            let value = 0;
            for (let k = 0, at = (i * fields) * width + d; k < fields; k++, at += width) value += weights[k] * table[at];
            sum[width * i + d] += value;
          }
      }
    }
    return out;
  }

  // The part of the decoder's first layer that does not depend on the frame, from the encoded positions, once: blocks of
  // LANES Gaussians, each output by output.
  prepareDecoder() {
    const { decoder } = this.info.avatar, { rest } = this.a;
    const width = 3 * (2 * decoder.bands + (decoder.coordinates ? 1 : 0));
    this.encoded = width;
    this.network = new Layers(decoder.layers, this.a, width);
    const { even } = this.network.layers[0], block = LANES * even;
    this.first = new Float32Array(block * Math.ceil(this.count / LANES));
    for (let start = 0, at = 0; start < this.count; start += LANES, at += block) {
      const x = this.network.input, n = Math.min(LANES, this.count - start);
      for (let b = 0; b < n; b++) {
        const place = 3 * (start + b);
        let row = b;
        if (decoder.coordinates) for (let k = 0; k < 3; k++, row += LANES) x[row] = rest[place + k];
        for (let band = 0; band < decoder.bands; band++)
          for (const wave of [Math.sin, Math.cos])
            for (let k = 0; k < 3; k++, row += LANES) x[row] = wave(Math.PI * 2 ** band * rest[place + k]);
      }
      this.network.apply(0);
      this.first.set(this.network.input.subarray(0, block), at);
    }
  }

  decode(state, out) {
    const { decoder } = this.info.avatar, { network } = this, { layers } = network;
    const inputs = frameInputs(decoder.inputs, state), { even, out: outputs, stride } = layers[0];
    const weight = this.a[layers[0].name + "_weight"], relu = decoder.layers[0].relu;
    const common = new Float32Array(even); // what the frame adds to the first layer, the same for all
    for (let o = 0; o < outputs; o++)
      for (let k = 0; k < inputs.length; k++) common[o] += weight[o * stride + this.encoded + k] * inputs[k];
    const names = [];
    let row = 0;
    for (const { name, width, gain } of decoder.attributes) {
      names.push({ row, width, gain, into: (out[name] = new Float32Array(width * this.count)) });
      row += width;
    }
    for (let start = 0, at = 0; start < this.count; start += LANES) {
      let x = network.input;
      for (let o = 0, to = 0; o < even; o++)
        for (let b = 0; b < LANES; b++, to++, at++) {
          const value = this.first[at] + common[o];
          x[to] = relu && value < 0 ? 0 : value;
        }
      for (let l = 1; l < layers.length; l++) network.apply(l);
      x = network.input;
      const n = Math.min(LANES, this.count - start);
      for (const { row, width, gain, into } of names)
        for (let d = 0; d < width; d++)
          for (let b = 0; b < n; b++) {
            const value = x[LANES * (row + d) + b];
            into[width * (start + b) + d] = gain * (decoder.bounded ? Math.tanh(value) : value);
          }
    }
  }

  // Indices from the farthest to the nearest; among equals the later one is farther, as the library blends them.
  sort(view) {
    const { rows, depth, keys, count } = this;
    const [x, y, z, t] = [view[8], view[9], view[10], view[11]];
    for (let i = 0; i < count; i++) {
      const d = x * rows[ROW * i] + y * rows[ROW * i + 1] + z * rows[ROW * i + 2] + t;
      depth[i] = d > 0 ? d : 0; // what is behind the camera is not drawn; as bits, positive numbers sort as integers
    }
    let from = this.order, to = this.swap;
    for (let i = 0; i < count; i++) from[i] = i;
    for (const shift of [0, 11, 22]) {
      const starts = new Uint32Array(2049);
      for (let i = 0; i < count; i++) starts[((keys[i] >>> shift) & 2047) + 1]++;
      for (let k = 0; k < 2048; k++) starts[k + 1] += starts[k];
      for (let i = 0; i < count; i++) to[starts[(keys[from[i]] >>> shift) & 2047]++] = from[i];
      [from, to] = [to, from];
    }
    this.order = from;
    this.swap = to;
    return from;
  }

  // The Gaussians on screen, from back to front, DRAWN numbers each: center; inverse covariance xx, xy, yy; opacity;
  // color; the longer half axis of the box outside which alpha is below 1/255, and the length of the other, pixels.
  // camera: {view: [16] world to camera, row by row, lens: [9], width, height, lowPass}.
  project({ view: m, lens, width, height, lowPass }) {
    const { rows, count } = this, { near, antialiased, degree } = this.info.avatar, harmonics = this.a.harmonics;
    const order = this.sort(m), out = new Float32Array(DRAWN * count), terms = (degree + 1) ** 2 - 1;
    const eye = [0, 1, 2].map((k) => -(m[k] * m[3] + m[4 + k] * m[7] + m[8 + k] * m[11]));
    const basis = new Float64Array(16), [fx, fs, cx, sy, fy, cy] = lens;
    // Beyond 1.3 times the field of view the Jacobian is that at the border.
    const left = -(cx + 0.15 * width) / fx, right = (1.15 * width - cx) / fx;
    const top = -(cy + 0.15 * height) / fy, bottom = (1.15 * height - cy) / fy;
    let drawn = 0;
    for (let n = count - 1; n >= 0; n--) {
      const i = order[n], r = ROW * i, x = rows[r], y = rows[r + 1], z = rows[r + 2];
      const lz = m[8] * x + m[9] * y + m[10] * z + m[11];
      if (!(lz > near)) continue;
      const a = (m[0] * x + m[1] * y + m[2] * z + m[3]) / lz, b = (m[4] * x + m[5] * y + m[6] * z + m[7]) / lz;
      const px = fx * a + fs * b + cx, py = sy * a + fy * b + cy;
      const u = a < left ? left : a > right ? right : a, v = b < top ? top : b > bottom ? bottom : b;
      const w = rows[r + 4], q1 = rows[r + 5], q2 = rows[r + 6], q3 = rows[r + 7];
      const squared = w * w + q1 * q1 + q2 * q2 + q3 * q3, two = squared > 0 ? 2 / squared : 0;
      let xx = 0, xy = 0, yy = 0, gx0, gx1, gx2, gy0, gy1, gy2;
      for (let k = 0; k < 3; k++) { // the columns of the rotation, on screen
        let ax, ay, az;
        if (k === 0) { ax = 1 - two * (q2 * q2 + q3 * q3); ay = two * (q1 * q2 + w * q3); az = two * (q1 * q3 - w * q2); }
        else if (k === 1) { ax = two * (q1 * q2 - w * q3); ay = 1 - two * (q1 * q1 + q3 * q3); az = two * (q2 * q3 + w * q1); }
        else { ax = two * (q1 * q3 + w * q2); ay = two * (q2 * q3 - w * q1); az = 1 - two * (q1 * q1 + q2 * q2); }
        const scale = rows[r + 8 + k] / lz, away = m[8] * ax + m[9] * ay + m[10] * az;
        const sx = scale * (m[0] * ax + m[1] * ay + m[2] * az - u * away);
        const sz = scale * (m[4] * ax + m[5] * ay + m[6] * az - v * away);
        const gx = fx * sx + fs * sz, gy = sy * sx + fy * sz;
        xx += gx * gx; xy += gx * gy; yy += gy * gy;
        if (k === 0) { gx0 = gx; gy0 = gy; } else if (k === 1) { gx1 = gx; gy1 = gy; } else { gx2 = gx; gy2 = gy; }
      }
      const n0 = gx1 * gy2 - gx2 * gy1, n1 = gx2 * gy0 - gx0 * gy2, n2 = gx0 * gy1 - gx1 * gy0;
      const sharp = n0 * n0 + n1 * n1 + n2 * n2, blurred = sharp + lowPass * (xx + yy) + lowPass * lowPass;
      let opacity = rows[r + 3];
      if (antialiased) opacity *= sharp > 0 ? Math.sqrt(sharp / blurred) : 0;
      if (!(opacity >= 1 / 255) || !(blurred > 0)) continue;
      xx += lowPass;
      yy += lowPass;
      const reach = 2 * Math.log(255 * opacity), wide = Math.sqrt(reach * xx), high = Math.sqrt(reach * yy);
      if (!(px + wide > 0 && px - wide < width && py + high > 0 && py - high < height)) continue;
      const half = 0.5 * (xx - yy), middle = 0.5 * (xx + yy), root = Math.sqrt(half * half + xy * xy);
      let dx = half >= 0 ? half + root : xy, dy = half >= 0 ? xy : root - half; // without cancellation
      const length = Math.sqrt(dx * dx + dy * dy), far = (Math.sqrt(reach * (middle + root)) + 0.75) / (length || 1);
      if (!length) dx = 1;
      const o = DRAWN * drawn++;
      out[o] = px;
      out[o + 1] = py;
      out[o + 2] = yy / blurred;
      out[o + 3] = -xy / blurred;
      out[o + 4] = xx / blurred;
      out[o + 5] = opacity;
      if (terms) sphericalHarmonics(basis, degree, x - eye[0], y - eye[1], z - eye[2]);
      for (let c = 0; c < 3; c++) {
        let tint = 0.28209479177387814 * rows[r + 12 + c] + 0.5;
        for (let k = 0; k < terms; k++) tint += basis[k + 1] * harmonics[3 * (terms * i + k) + c];
        out[o + 6 + c] = tint > 0 ? tint : 0;
      }
      out[o + 9] = dx * far;
      out[o + 10] = dy * far;
      out[o + 11] = Math.sqrt(Math.max(reach * (middle - root), 0)) + 0.75;
    }
    return out.subarray(0, DRAWN * drawn);
  }
}

// Values of the real harmonics of degree 1 to 3, from basis[1] on, in 3DGS's order and signs.
function sphericalHarmonics(basis, degree, x, y, z) {
  const length = Math.sqrt(x * x + y * y + z * z) || 1;
  x /= length; y /= length; z /= length;
  basis[1] = -0.4886025119029199 * y;
  basis[2] = 0.4886025119029199 * z;
  basis[3] = -0.4886025119029199 * x;
  if (degree < 2) return;
  const xx = x * x, yy = y * y, zz = z * z;
  basis[4] = 1.0925484305920792 * x * y;
  basis[5] = -1.0925484305920792 * y * z;
  basis[6] = 0.31539156525252005 * (2 * zz - xx - yy);
  basis[7] = -1.0925484305920792 * x * z;
  basis[8] = 0.5462742152960396 * (xx - yy);
  if (degree < 3) return;
  basis[9] = -0.5900435899266435 * y * (3 * xx - yy);
  basis[10] = 2.890611442640554 * x * y * z;
  basis[11] = -0.4570457994644658 * y * (4 * zz - xx - yy);
  basis[12] = 0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy);
  basis[13] = -0.4570457994644658 * x * (4 * zz - xx - yy);
  basis[14] = 1.445305721320277 * z * (xx - yy);
  basis[15] = -0.5900435899266435 * x * (xx - 3 * yy);
}

function addShapes(sum, shapes, amounts) {
  const size = sum.length;
  for (let e = 0; e < amounts.length && (e + 1) * size <= shapes.length; e++) {
    const amount = amounts[e];
    if (amount === 0) continue;
    for (let i = 0, at = e * size; i < size; i++, at++) sum[i] += amount * shapes[at];
  }
}

// What a network reads of a frame: values of fields, and rotations of joints.
function frameInputs(inputs, state) {
  const row = [];
  for (const input of inputs) {
    if (input.field) {
      const values = input.field === "expression" ? state.expression : state.codes[input.field];
      for (let k = 0; k < input.width; k++) row.push(values[k]);
    } else
      for (const j of input.joints) {
        const turn = rotation(state.pose[3 * j], state.pose[3 * j + 1], state.pose[3 * j + 2]);
        if (input.rotations === "6d") row.push(...turn.slice(0, 6));
        else turn.forEach((x, i) => row.push(x - (i % 4 === 0 ? 1 : 0)));
      }
  }
  return Float64Array.from(row);
}

function network(layers, arrays, inputs) {
  let x = inputs;
  for (const layer of layers) {
    const weight = arrays[layer.name + "_weight"], bias = arrays[layer.name + "_bias"], y = new Float64Array(layer.out);
    for (let o = 0; o < layer.out; o++) {
      let sum = bias ? bias[o] : 0;
      for (let k = 0; k < layer.in; k++) sum += weight[o * layer.in + k] * x[k];
      y[o] = layer.relu && sum < 0 ? 0 : sum;
    }
    x = y;
  }
  return x;
}

function rotation(x, y, z) {
  const squared = x * x + y * y + z * z, angle = Math.sqrt(squared);
  const a = angle < 1e-4 ? 1 - squared / 6 : Math.sin(angle) / angle;
  const b = angle < 1e-4 ? 0.5 - squared / 24 : (1 - Math.cos(angle)) / squared;
  return [
    1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y,
    b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x,
    b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y),
  ];
}

function product(a, b) {
  const out = [];
  for (let i = 0; i < 3; i++)
    for (let j = 0; j < 3; j++) out.push(a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j]);
  return out;
}

function applied(m, p) {
  return [0, 3, 6].map((i) => m[i] * p[0] + m[i + 1] * p[1] + m[i + 2] * p[2]);
}

function cross(a, b) {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}

function direction(x, y, z, otherwise) {
  const squared = x * x + y * y + z * z;
  if (squared <= 1e-20) return otherwise;
  const length = Math.sqrt(squared);
  return [x / length, y / length, z / length];
}

// Shepperd's method: the largest entry by a root, the others by division by it.
function quaternionOf(m, into, at) {
  const four = [1 + m[0] + m[4] + m[8], 1 + m[0] - m[4] - m[8], 1 - m[0] + m[4] - m[8], 1 - m[0] - m[4] + m[8]];
  let best = 0;
  for (let k = 1; k < 4; k++) if (four[k] > four[best]) best = k;
  const root = Math.sqrt(four[best]), half = 0.5 / root;
  const wx = m[7] - m[5], wy = m[2] - m[6], wz = m[3] - m[1], xy = m[1] + m[3], xz = m[2] + m[6], yz = m[5] + m[7];
  const rows = [[0, wx, wy, wz], [wx, 0, xy, xz], [wy, xy, 0, yz], [wz, xz, yz, 0]];
  for (let k = 0; k < 4; k++) into[at + k] = k === best ? root / 2 : half * rows[best][k];
}

// In a worker: {load} once, then {state, camera} for each picture; a state of null keeps the last one.
function serve(post) {
  let poser = null;
  return ({ load, state, camera }) => {
    if (load) poser = new Poser(load.info, load.arrays);
    if (!camera) return;
    const started = performance.now();
    if (state) poser.pose(state);
    const posed = performance.now(), splats = poser.project(camera);
    const spent = { pose: state ? posed - started : 0, project: performance.now() - posed };
    post({ splats, spent }, [splats.buffer]);
  };
}
