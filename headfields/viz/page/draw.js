"use strict";
// Draws the Gaussians that pose.js has projected, as the library's SplatRenderer does: alpha = min(0.99, opacity
// exp(-d' S^-1 d / 2)), left out below 1/255; blended in order of depth, here from back to front.

const ACROSS = 256; // Gaussians in a row of the texture that holds them, three texels each

const VERTEX = `#version 300 es
precision highp float;
precision highp sampler2D;
uniform sampler2D splats;
uniform vec2 size; // pixels
flat out vec2 center;
flat out vec4 conic;
flat out vec3 tint;
void main() {
  int splat = gl_VertexID >> 2, row = splat / ${ACROSS}, at = 3 * (splat - row * ${ACROSS});
  vec4 first = texelFetch(splats, ivec2(at, row), 0);      // center, pixels; inverse covariance xx, xy
  vec4 second = texelFetch(splats, ivec2(at + 1, row), 0); // yy; opacity; red, green
  vec4 third = texelFetch(splats, ivec2(at + 2, row), 0);  // blue; longer half axis of the box; half its other side
  center = first.xy;
  conic = vec4(first.zw, second.xy);
  tint = vec3(second.zw, third.x);
  vec2 corner = vec2(float(gl_VertexID & 1), float((gl_VertexID >> 1) & 1)) * 2.0 - 1.0;
  vec2 along = third.yz, across = third.w * normalize(vec2(-along.y, along.x));
  vec2 place = center + corner.x * along + corner.y * across;
  gl_Position = vec4(2.0 * place.x / size.x - 1.0, 1.0 - 2.0 * place.y / size.y, 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
uniform vec2 size;
flat in vec2 center;
flat in vec4 conic;
flat in vec3 tint;
out vec4 color;
void main() {
  vec2 d = vec2(gl_FragCoord.x, size.y - gl_FragCoord.y) - center;
  float alpha = conic.w * exp(-0.5 * (conic.x * d.x * d.x + conic.z * d.y * d.y) - conic.y * d.x * d.y);
  if (!(alpha >= 1.0 / 255.0)) discard;
  alpha = min(alpha, 0.99);
  color = vec4(tint * alpha, alpha);
}`;

const COPY_VERTEX = `#version 300 es
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0); }`;
const COPY_FRAGMENT = `#version 300 es
precision highp float;
precision highp sampler2D;
uniform sampler2D image;
out vec4 color;
void main() {
  vec4 c = texelFetch(image, ivec2(gl_FragCoord.xy), 0);
  color = vec4(clamp(c.rgb, 0.0, max(c.a, 0.0)), c.a);
}`;

class Painter {
  // Throws an Error if there is no WebGL2.
  constructor(canvas, count) {
    this.canvas = canvas;
    const gl = (this.gl = canvas.getContext("webgl2", {
      alpha: true, premultipliedAlpha: true, antialias: false, depth: false, preserveDrawingBuffer: true,
    }));
    if (!gl) throw new Error("this one has none");
    // Blending in 8 bits rounds at every Gaussian; in half floats that does not show.
    this.half = Boolean(gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float"));
    this.program = linked(gl, VERTEX, FRAGMENT);
    this.copy = linked(gl, COPY_VERTEX, COPY_FRAGMENT);
    this.places = { size: gl.getUniformLocation(this.program, "size"), splats: gl.getUniformLocation(this.program, "splats") };
    this.image = nearest(gl);
    this.target = gl.createFramebuffer();
    this.splats = nearest(gl);
    this.height = Math.max(1, Math.ceil(count / ACROSS));
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, 3 * ACROSS, this.height, 0, gl.RGBA, gl.FLOAT, null);
    this.staging = new Float32Array(12 * ACROSS * this.height);
    // Four vertices each, by index: drivers in software take long for many small instances.
    gl.bindVertexArray(gl.createVertexArray());
    const corners = new Uint32Array(6 * count);
    for (let i = 0; i < count; i++) corners.set([4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 2, 4 * i + 1, 4 * i + 3], 6 * i);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
  }

  // splats: rows of 12 numbers, from back to front; background: [r, g, b, a].
  draw(splats, width, height, background) {
    const { gl, canvas } = this;
    if (canvas.width !== width || canvas.height !== height || !this.sized) {
      canvas.width = width;
      canvas.height = height;
      gl.bindTexture(gl.TEXTURE_2D, this.image);
      const [inside, kind] = this.half ? [gl.RGBA16F, gl.HALF_FLOAT] : [gl.RGBA8, gl.UNSIGNED_BYTE];
      gl.texImage2D(gl.TEXTURE_2D, 0, inside, width, height, 0, gl.RGBA, kind, null);
      gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.image, 0);
      this.sized = true;
    }
    const count = splats.length / 12, filled = Math.ceil(count / ACROSS);
    gl.bindTexture(gl.TEXTURE_2D, this.splats);
    if (filled) {
      this.staging.set(splats);
      gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 3 * ACROSS, filled, gl.RGBA, gl.FLOAT, this.staging.subarray(0, 12 * ACROSS * filled));
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.viewport(0, 0, width, height);
    const [r, g, b, a] = background;
    gl.clearColor(r * a, g * a, b * a, a);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(this.program);
    gl.uniform2f(this.places.size, width, height);
    gl.uniform1i(this.places.splats, 0);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.drawElements(gl.TRIANGLES, 6 * count, gl.UNSIGNED_INT, 0);
    gl.disable(gl.BLEND);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.useProgram(this.copy);
    gl.bindTexture(gl.TEXTURE_2D, this.image);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  // Resolves when what was asked for has been drawn. Drivers take work ahead: pictures would show what was set long ago.
  drawn() {
    const { gl } = this, fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    return new Promise((done) => {
      const look = () => {
        if (!gl.isContextLost() && gl.getSyncParameter(fence, gl.SYNC_STATUS) !== gl.SIGNALED) return setTimeout(look, 1);
        gl.deleteSync(fence);
        done();
      };
      setTimeout(look, 0); // its state changes between tasks alone
    });
  }

  // The picture, rows from the top, RGBA of 8 bits.
  read() {
    const { gl, canvas } = this, { width, height } = canvas, bytes = new Uint8Array(4 * width * height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    const out = new Uint8Array(bytes.length), row = 4 * width;
    for (let y = 0; y < height; y++) out.set(bytes.subarray(row * y, row * (y + 1)), row * (height - 1 - y));
    return { width, height, pixels: out };
  }
}

function nearest(gl) {
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
  return made;
}

function linked(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
    const logs = gl.getAttachedShaders(program).map((shader) => gl.getShaderInfoLog(shader));
    throw new Error([gl.getProgramInfoLog(program), ...logs].join("\n"));
  }
  return program;
}
