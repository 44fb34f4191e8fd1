"use strict";
// The page: unpacks the avatar, listens to the controls, and keeps one picture on its way from worker to canvas.
// window.headfields is for scripts: ready (whether the head can be drawn), info, setState, setCamera, setBackground, read.

const $ = (id) => document.getElementById(id);
const info = JSON.parse($("info").textContent);
const canvas = $("view"), stage = $("stage");

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const STEADY = 250; // milliseconds without motion, after which the picture is drawn in full size
const LONGEST = 2048; // pixels of a side

// ---------------------------------------------------------------------------------------------- the head's parameters

const layout = (() => {
  const { expression, pose, codes } = info.parameters, starts = { expression: 0, pose: expression };
  let at = expression + pose;
  for (const [name, width] of Object.entries(codes)) {
    starts["code " + name] = at;
    at += width;
  }
  return { starts, size: at };
})();

function stateOf(values) {
  const { expression, pose, codes } = info.parameters, { starts } = layout;
  const take = (start, width) => Array.from(values.subarray(start, start + width));
  const named = {};
  for (const [name, width] of Object.entries(codes)) named[name] = take(starts["code " + name], width);
  return { expression: take(0, expression), pose: take(starts.pose, pose), codes: named };
}

// ------------------------------------------------------------------------------------------------------- the pipeline

class Show {
  constructor(arrays) {
    this.painter = new Painter(canvas, info.avatar.count);
    this.values = new Float64Array(layout.size);
    this.stateDirty = true;
    this.busy = this.wanted = false;
    this.waiting = [];
    this.background = [0, 0, 0, 0];
    this.spent = { pose: 0, project: 0 };
    this.ask = served((picture) => this.finish(picture));
    this.ask({ load: { info, arrays } });
  }

  // Draws what is set now, as soon as the picture before is done.
  request() {
    if (this.busy) {
      this.wanted = true;
      return;
    }
    this.busy = true;
    this.wanted = false;
    this.camera = placed(view.camera());
    this.ask({ state: this.stateDirty ? stateOf(this.values) : null, camera: this.camera });
    this.stateDirty = false;
  }

  async finish({ splats, spent }) {
    this.painter.draw(splats, this.camera.width, this.camera.height, this.background);
    this.spent = { pose: spent.pose || this.spent.pose, project: spent.project };
    if (canvas.hidden) {
      canvas.hidden = false;
      $("poster").hidden = true;
    }
    await this.painter.drawn();
    this.busy = false;
    if (this.wanted) this.request();
    else for (const done of this.waiting.splice(0)) done();
  }

  // Resolves when the picture shows what is set.
  settled() {
    return new Promise((done) => (this.busy ? this.waiting.push(done) : done()));
  }

  setValues(values) {
    this.values.set(values);
    this.stateDirty = true;
    this.request();
  }
}

// A function that takes requests, answered by a worker; in the page itself where workers are not allowed.
function served(answer) {
  const code = $("poser").textContent;
  try {
    const glue = "\n{ const own = serve(postMessage.bind(self)); onmessage = ({ data }) => own(data); }";
    const worker = new Worker(URL.createObjectURL(new Blob([code + glue], { type: "text/javascript" })));
    worker.onmessage = ({ data }) => answer(data);
    worker.onerror = (event) => notice("The head cannot be posed: " + event.message);
    return (request) => worker.postMessage(request);
  } catch {
    return new Function(code + "\nreturn serve;")()((picture) => setTimeout(answer, 0, picture));
  }
}

// --------------------------------------------------------------------------------------------------------- the camera

const view = {
  fixed: null, // a camera that a script has set
  quality: 1, // of the side of the picture while it moves
  moving: false,

  reset() {
    const m = info.camera.view, center = info.center;
    const eye = [0, 1, 2].map((k) => -(m[k] * m[3] + m[4 + k] * m[7] + m[8 + k] * m[11]));
    const ahead = [m[8], m[9], m[10]], up = [-m[4], -m[5], -m[6]];
    const distance = Math.max(ahead.reduce((sum, x, k) => sum + x * (center[k] - eye[k]), 0), 1e-3);
    this.distance = distance;
    this.target = eye.map((x, k) => x + distance * ahead[k]);
    this.pitch = Math.asin(clamp(-ahead[1], -1, 1));
    this.yaw = Math.atan2(-ahead[0], -ahead[2]);
    this.roll = 0;
    const [right, level] = this.axes();
    this.roll = Math.atan2(dot(up, right), dot(up, level));
    this.fixed = null;
  },

  // Right, up and backward of the camera without its roll.
  axes() {
    const [sy, cy, sp, cp] = [Math.sin(this.yaw), Math.cos(this.yaw), Math.sin(this.pitch), Math.cos(this.pitch)];
    return [[cy, 0, -sy], [-sy * sp, cp, -cy * sp], [sy * cp, sp, cy * cp]];
  },

  camera() {
    if (this.fixed) return this.fixed;
    const box = stage.getBoundingClientRect(), given = info.camera;
    const pixels = Math.min(devicePixelRatio || 1, LONGEST / Math.max(box.width, box.height, 1));
    const sharp = pixels * (this.moving ? this.quality : 1);
    const width = Math.max(1, Math.round(box.width * sharp)), height = Math.max(1, Math.round(box.height * sharp));
    const scale = Math.min(width / given.width, height / given.height);
    const [right, level, back] = this.axes(), c = Math.cos(this.roll), s = Math.sin(this.roll);
    const across = right.map((x, k) => c * x - s * level[k]), up = right.map((x, k) => s * x + c * level[k]);
    const eye = this.target.map((x, k) => x + this.distance * back[k]);
    const rows = [across, up.map((x) => -x), back.map((x) => -x)];
    const matrix = rows.flatMap((row) => [...row, -dot(row, eye)]).concat([0, 0, 0, 1]);
    const [fx, skew, cx, , fy, cy] = given.lens;
    const lens = [
      scale * fx, scale * skew, width / 2 + scale * (cx - given.width / 2),
      0, scale * fy, height / 2 + scale * (cy - given.height / 2), 0, 0, 1,
    ];
    // In a picture larger than those it was trained on, the low-pass grows too: what the head looks like stays.
    const { lowPass, antialiased } = info.avatar;
    return { view: matrix, lens, width, height, lowPass: lowPass * (antialiased ? 1 : Math.max(1, scale * scale)) };
  },

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = clamp(this.pitch + pitch, -1.5, 1.5);
    moved();
  },

  // By pixels of the page.
  pan(x, y) {
    const box = stage.getBoundingClientRect(), [right, level] = this.axes();
    const scale = Math.min(box.width / info.camera.width, box.height / info.camera.height);
    const size = this.distance / (scale * info.camera.lens[0]);
    this.target = this.target.map((t, k) => t - size * x * right[k] + size * y * level[k]);
    moved();
  },

  zoom(factor) {
    this.distance = clamp(this.distance * factor, 0.15 * info.extent, 40 * info.extent);
    moved();
  },
};

// The camera relative to the head: where the head moved when it was recorded, the view moves the other way.
function placed(camera) {
  if (view.fixed || !info.clip.moves || !$("moves").checked || !player.clip) return camera;
  const at = 12 * Math.round(player.time), m = player.moves.subarray(at, at + 12), v = camera.view, out = [];
  for (let i = 0; i < 3; i++)
    for (let j = 0; j < 4; j++)
      out.push(v[4 * i] * m[j] + v[4 * i + 1] * m[4 + j] + v[4 * i + 2] * m[8 + j] + (j === 3 ? v[4 * i + 3] : 0));
  return { ...camera, view: out };
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

let steady = 0, lastDrawn = 0;
function moved() {
  view.fixed = null;
  busyNow();
  show?.request();
}

// Smaller pictures while something moves and drawing is slow; the full one afterwards.
function busyNow() {
  view.moving = true;
  clearTimeout(steady);
  steady = setTimeout(() => {
    view.moving = false;
    lastDrawn = 0;
    show?.request();
  }, STEADY);
}

function watchRate(now) {
  requestAnimationFrame(watchRate);
  if (!view.moving) return;
  if (lastDrawn) {
    const spent = now - lastDrawn;
    slowness += 0.2 * (spent - slowness);
    if (slowness > 45 && view.quality > 0.3) [view.quality, slowness] = [view.quality * 0.8, 33];
    else if (slowness < 22 && view.quality < 1) [view.quality, slowness] = [Math.min(1, view.quality * 1.1), 33];
  }
  lastDrawn = now;
}
let slowness = 33;

// ------------------------------------------------------------------------------------------------------ mouse, touch, keys

function listen() {
  const fingers = new Map();
  const hint = () => $("hint").classList.add("gone");
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY, pan: event.button !== 0 || event.shiftKey });
    hint();
  });
  canvas.addEventListener("pointermove", (event) => {
    const finger = fingers.get(event.pointerId);
    if (!finger) return;
    const dx = event.clientX - finger.x, dy = event.clientY - finger.y;
    if (fingers.size === 1) {
      if (finger.pan) view.pan(dx, dy);
      else view.turn(-0.008 * dx, 0.008 * dy);
    } else if (fingers.size === 2) {
      const other = [...fingers.entries()].find(([id]) => id !== event.pointerId)[1];
      const before = Math.hypot(finger.x - other.x, finger.y - other.y);
      const after = Math.hypot(event.clientX - other.x, event.clientY - other.y);
      if (before > 0 && after > 0) view.zoom(before / after);
      view.pan(dx / 2, dy / 2);
    }
    finger.x = event.clientX;
    finger.y = event.clientY;
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => $("reset-view").click());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    hint();
    view.zoom(Math.exp(clamp(event.deltaY * (event.deltaMode ? 30 : 1), -200, 200) * 0.0012));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (arrows) event.shiftKey ? view.pan(12 * arrows[0], 12 * arrows[1]) : view.turn(0.08 * arrows[0], -0.08 * arrows[1]);
    else if (event.key === "+" || event.key === "=") view.zoom(0.92);
    else if (event.key === "-") view.zoom(1 / 0.92);
    else if (event.key === "Home") $("reset-view").click();
    else return;
    event.preventDefault();
    hint();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== " " || event.target.closest?.("button, summary, input, label") || !info.clip.frames) return;
    event.preventDefault();
    player.toggle();
  });
  new ResizeObserver(() => show?.request()).observe(stage);
  canvas.addEventListener("webglcontextlost", (event) => {
    event.preventDefault();
    notice("The graphics card was taken away; reload the page to draw the head again.");
  });
}

// ----------------------------------------------------------------------------------------------------------- controls

const sliders = [];

function fill(input) {
  const { min, max, value } = input, percent = (x) => (100 * (x - min)) / (max - min || 1);
  const zero = percent(clamp(0, min, max)), at = percent(value);
  input.style.setProperty("--from", Math.min(zero, at) + "%");
  input.style.setProperty("--to", Math.max(zero, at) + "%");
}

function buildSliders() {
  for (const [number, group] of info.sliders.entries()) {
    const box = element("details", { open: number === 0 }, $("sliders"));
    element("summary", {}, box).append(group.title, element("span", { textContent: group.items.length }));
    let search = null;
    if (group.items.length > 12) {
      search = element("input", { className: "search", type: "search", placeholder: "Find a shape" }, box);
      search.setAttribute("aria-label", "Find in " + group.title);
    }
    let joint = null;
    for (const item of group.items) {
      if (item.joint && item.joint !== joint) element("div", { className: "joint", textContent: (joint = item.joint) }, box);
      const row = element("label", { className: "slider", title: item.name }, box);
      element("span", { textContent: item.label || item.name }, row);
      const factor = item.unit === "°" ? 180 / Math.PI : 1;
      const input = element("input", { type: "range", min: item.low * factor, max: item.high * factor, step: "any", value: 0 }, row);
      input.setAttribute("aria-label", item.name);
      const output = element("output", {}, row), at = layout.starts[item.part] + item.index;
      const show_ = (value) => {
        input.value = value * factor;
        output.textContent = factor === 1 ? value.toFixed(2) : (value * factor).toFixed(0) + item.unit;
        row.classList.toggle("moved", Math.abs(value) > 1e-3);
        fill(input);
      };
      input.addEventListener("keydown", (event) => { // "any" has no step for keys
        const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
        if (!way) return;
        event.preventDefault();
        input.value = Number(input.value) + (way * (input.max - input.min)) / 20;
        input.dispatchEvent(new Event("input"));
      });
      input.addEventListener("input", () => {
        player.pause();
        const value = Number(input.value) / factor;
        show.values[at] = value;
        show.stateDirty = true;
        show_(value);
        busyNow();
        show.request();
      });
      row.addEventListener("dblclick", () => { input.value = 0; input.dispatchEvent(new Event("input")); });
      sliders.push({ at, show: show_, row, name: item.name });
    }
    search?.addEventListener("input", () => {
      const word = search.value.toLowerCase();
      for (const { row } of sliders) if (box.contains(row)) row.hidden = !row.title.toLowerCase().includes(word);
    });
  }
}

function showValues() {
  for (const slider of sliders) slider.show(show.values[slider.at]);
}

function element(tag, properties, parent) {
  const made = Object.assign(document.createElement(tag), properties);
  parent?.append(made);
  return made;
}

const player = {
  playing: false,
  time: 0, // in frames
  last: 0,

  build({ clip, moves }) {
    this.clip = clip;
    this.moves = moves;
    $("moves").parentElement.hidden = !info.clip.moves;
    $("moves").addEventListener("input", () => show.request());
    if (info.clip.frames < 2) return;
    $("clip").hidden = false;
    $("frame").max = info.clip.frames - 1;
    $("play").addEventListener("click", () => this.toggle());
    $("frame").addEventListener("input", () => { this.pause(); this.go(Number($("frame").value)); busyNow(); });
    $("speed").addEventListener("input", () => { $("speed-value").textContent = +(2 ** $("speed").value).toFixed(2) + "\u00d7"; fill($("speed")); });
    fill($("speed"));
  },

  toggle() {
    if (this.playing) return this.pause();
    if (this.time >= info.clip.frames - 1) this.time = 0;
    this.playing = true;
    this.icon();
    this.last = performance.now();
    requestAnimationFrame((now) => this.step(now));
  },

  pause() {
    this.playing = false;
    this.icon();
  },

  icon() {
    $("play").setAttribute("aria-label", this.playing ? "Pause" : "Play");
    $("play").firstChild.firstChild.setAttribute("d", this.playing ? "M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z" : "M4 2.5v11l9-5.5z");
  },

  step(now) {
    if (!this.playing) return;
    const last = info.clip.frames - 1;
    this.time += ((now - this.last) / 1000) * info.clip.fps * 2 ** $("speed").value;
    this.last = now;
    if (this.time > last) {
      if ($("loop").checked) this.time %= last;
      else { this.time = last; this.pause(); }
    }
    if (!show.busy) {
      busyNow();
      this.go(this.time);
    }
    if (this.playing) requestAnimationFrame((then) => this.step(then));
  },

  // Values at a time between two frames are in the middle of theirs.
  go(time) {
    this.time = time;
    const size = layout.size, first = Math.floor(time), part = time - first;
    const next = Math.min(first + 1, info.clip.frames - 1);
    for (let k = 0; k < size; k++)
      show.values[k] = (1 - part) * this.clip[first * size + k] + part * this.clip[next * size + k];
    show.stateDirty = true;
    $("frame").value = first;
    fill($("frame"));
    $("frame-number").textContent = `${first + 1} / ${info.clip.frames}`;
    showValues();
    show.request();
  },
};

const BACKGROUNDS = [
  ["Page", "var(--stage)", [0, 0, 0, 0], ""],
  ["White", "#fff", [1, 1, 1, 1], "plain"],
  ["Black", "#000", [0, 0, 0, 1], "plain"],
  ["Transparent", "repeating-conic-gradient(#b9bec7 0 25%, #fff 0 50%) 0 0 / 12px 12px", [0, 0, 0, 0], "checks"],
];

function buildBackgrounds() {
  const buttons = [];
  const choose = (index) => {
    buttons.forEach((button, k) => {
      button.setAttribute("aria-checked", k === index);
      button.tabIndex = k === Math.max(index, 0) ? 0 : -1;
    });
    document.querySelector(".color").classList.toggle("on", index < 0);
    const [, , color, kind] = index < 0 ? ["", "", hexColor($("color").value), "plain"] : BACKGROUNDS[index];
    setBackground(color, kind);
  };
  for (const [index, [name, look]] of BACKGROUNDS.entries()) {
    const button = element("button", { className: "swatch", title: name }, $("backgrounds"));
    button.style.background = look;
    button.setAttribute("role", "radio");
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => choose(index));
    button.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!way) return;
      event.preventDefault();
      const next = buttons[(index + way + buttons.length) % buttons.length];
      next.focus();
      next.click();
    });
    buttons.push(button);
  }
  for (const name of ["input", "click"]) $("color").addEventListener(name, () => choose(-1));
  choose(0);
}

function setBackground(color, kind = "plain") {
  stage.classList.toggle("plain", kind === "plain");
  stage.classList.toggle("checks", kind === "checks");
  const [r, g, b, a] = color;
  stage.style.setProperty("--flat", `rgb(${255 * r} ${255 * g} ${255 * b} / ${a})`);
  show.background = color;
  show.request();
}

function hexColor(text) {
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16) / 255).concat(1);
}

async function savePicture() {
  player.pause();
  view.moving = false;
  show.request();
  await show.settled();
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const link = element("a", { href: URL.createObjectURL(blob), download: (info.title || "head").replace(/[^\w.-]+/g, "_") + ".png" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function notice(text) {
  $("notice").textContent = text;
}

// -------------------------------------------------------------------------------------------------------------- start

let show = null;

async function start() {
  $("about").textContent = info.about;
  try {
    if (!window.DecompressionStream) throw new Error("it cannot unpack compressed data");
    const arrays = await unpack(info.table, $("data").textContent.trim());
    view.reset();
    show = new Show(arrays);
    player.build(arrays);
  } catch (error) {
    $("hint").hidden = true;
    notice(`This is a still picture: the head needs a browser with WebGL2 to move (${error.message}).`);
    console.warn(error);
    return false;
  }
  buildSliders();
  buildBackgrounds();
  live.build();
  listen();
  requestAnimationFrame(watchRate);
  $("reset-view").addEventListener("click", () => { view.reset(); moved(); });
  $("reset-face").addEventListener("click", () => { player.pause(); show.setValues(info.neutral); showValues(); });
  $("save").addEventListener("click", savePicture);
  if (info.clip.frames) player.go(0);
  else { show.setValues(info.neutral); showValues(); }
  await show.settled();
  return true;
}

window.headfields = {
  info,
  ready: start(),

  // {expression: numbers or {name: number}, pose: [[x, y, z], ...], codes: {name: numbers}}; what is left out stays.
  setState({ expression, pose, codes }) {
    player.pause();
    const values = Float64Array.from(show.values), { starts } = layout;
    if (Array.isArray(expression)) values.set(expression, 0);
    else
      for (const [name, value] of Object.entries(expression || {})) {
        const index = info.names.indexOf(name);
        if (index < 0) throw new Error(`no shape is called ${name}; there are ${info.names.join(", ")}`);
        values[index] = value;
      }
    if (pose) values.set(pose.flat(), starts.pose);
    for (const [name, value] of Object.entries(codes || {})) values.set(value, starts["code " + name]);
    show.setValues(values);
    showValues();
  },

  // {world_to_camera: 4 x 4 in OpenCV's axes, intrinsics: 3 x 3 in pixels, size: [height, width]}; null: the page's own.
  setCamera(camera) {
    view.fixed = camera && {
      view: camera.world_to_camera.flat(), lens: camera.intrinsics.flat(), height: camera.size[0], width: camera.size[1],
      lowPass: info.avatar.lowPass,
    };
    show.request();
  },

  // [r, g, b] or [r, g, b, alpha] in [0, 1].
  setBackground: (color) => setBackground(color.length < 4 ? [...color, 1] : color),

  // {width, height, pixels: RGBA of 8 bits, rows from the top} of what is set.
  async read() {
    await show.settled();
    return show.painter.read();
  },

  get spent() {
    return show.spent;
  },
};
