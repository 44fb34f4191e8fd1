"use strict";
// Faces from a program on this machine, when the user asks for them: `headfields drive --page` prints the address. A
// message is one frame, as headfields/apps/faces/lines.py has it; only the newest is drawn. Nothing else here connects.

const HERE = ["127.0.0.1", "localhost", "[::1]"]; // this machine's names: the page listens to no other

const TURNS_EYES = 0.1; // radians; less moves lids alone, as headfields/apps/driving/face_driver.py has it

const live = {
  socket: null,
  taken: 0,
  dropped: 0, // messages that are no frame

  build() {
    if (!info.names.length && !Object.keys(info.joints).length) return; // nothing that a face could move
    $("live").hidden = false;
    const own = new Map(info.names.map((name, index) => [this.plain(name), index]));
    const sided = (name) => [own.get(name + "left"), own.get(name + "right")];
    const mapped = new Map(Object.entries(info.face).map(([name, moves]) => [this.plain(name), moves]));
    // Places in a row of parameters and what a weight of 1 adds there: by the mapping, or of shapes of the same name.
    this.moves = (written) => {
      const name = this.plain(written);
      if (mapped.has(name)) return mapped.get(name);
      if (own.has(name)) return [[own.get(name), 1]];
      return sided(name).includes(undefined) ? [] : sided(name).map((at) => [at, 1]); // once in ARKit, a side each here
    };
    const eyes = ["left_eye", "right_eye"].map((joint) => layout.starts.pose + 3 * info.joints[joint]);
    const ofEye = ([at]) => eyes.some((start) => at >= start && at < start + 3);
    const turnsEyes = (moves) => Math.hypot(...moves.filter(ofEye).map(([, turn]) => turn)) > TURNS_EYES;
    this.looks =
      [...own.keys()].some((name) => name.startsWith("eyelook") && !mapped.has(name)) ||
      [...mapped].some(([name, moves]) => name.startsWith("eyelook") && turnsEyes(moves));
    $("live").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.socket) this.socket.close();
      else this.connect($("live-address").value);
    });
  },

  // Names are matched however they are written: eyeBlinkLeft, eyeBlink_L, EyeBlinkLeft.
  plain(name) {
    const long = name.trim().toLowerCase().replace(/[_. -]([lr])$/, (_, side) => (side === "l" ? "left" : "right"));
    return long.replace(/[_. -]/g, "");
  },

  connect(text) {
    let address = null;
    try {
      address = new URL(text.trim());
    } catch {} // said below
    if (address?.protocol !== "ws:" || !HERE.includes(address.hostname))
      return this.say("Expected the address that headfields drive --page prints: ws://127.0.0.1:PORT/KEY");
    player.pause();
    this.taken = this.dropped = 0;
    this.say("Connecting");
    const socket = (this.socket = new WebSocket(address));
    let opened = false;
    socket.onopen = () => {
      opened = true;
      $("live-connect").textContent = "Disconnect";
      this.say("Connected");
    };
    socket.onmessage = ({ data }) => this.take(data);
    socket.onclose = () => {
      this.socket = null;
      $("live-connect").textContent = "Connect";
      const dropped = this.dropped ? `, ${this.dropped} dropped` : "";
      this.say(opened ? `Ended: ${this.taken} frames${dropped}` : "Nobody answers there, or the key is another");
    };
  },

  say(text) {
    $("live-state").textContent = text;
  },

  take(data) {
    const values = Float64Array.from(info.neutral);
    try {
      this.fill(JSON.parse(data), values);
    } catch {
      this.dropped++;
      return;
    }
    this.taken++;
    this.say(`${this.taken} frames`);
    busyNow();
    show.setValues(values);
    showValues();
  },

  // The head's values of a frame. Throws where it is none.
  fill({ shapes = {}, ...turns }, values) {
    const number = (x, most) => {
      if (typeof x !== "number" || !(Math.abs(x) <= most)) throw new Error("out of range");
      return x;
    };
    let looks = false;
    for (const [name, weight] of Object.entries(shapes)) {
      number(weight, 2);
      if (weight && name.toLowerCase().startsWith("eyelook")) looks = true;
      for (const [at, amount] of this.moves(name)) values[at] += weight * amount;
    }
    for (const [part, joint] of [["head", "neck"], ["jaw", "jaw"], ["left_eye", "left_eye"], ["right_eye", "right_eye"]]) {
      if (!turns[part]) continue;
      if (turns[part].length !== 3) throw new Error("no turn");
      turns[part].forEach((x) => number(x, 2 * Math.PI));
      // Weights of looks and turns of the eyes say the same, and would count twice.
      if (!(joint in info.joints) || (joint.endsWith("eye") && this.looks && looks)) continue;
      turns[part].forEach((x, axis) => (values[layout.starts.pose + 3 * info.joints[joint] + axis] += x));
    }
  },
};
