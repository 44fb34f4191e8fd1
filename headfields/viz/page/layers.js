"use strict";
// Layers of a network for many Gaussians at a time, in WebAssembly with vectors of four numbers, which is several times
// as fast as JavaScript; where the browser has none of it, in JavaScript.

const LANES = 16; // Gaussians at a time: rows of activations are features, columns Gaussians

class Layers {
  // layers: {name, in, out, bias, relu}; arrays: their weights and biases; skip: columns of the first layer's weights
  // from `skip` on are left out, and so is its ReLU.
  constructor(layers, arrays, skip) {
    this.layers = layers.map(({ name, out, relu, bias, ...layer }, number) => {
      const width = number ? layer.in : skip, even = out + (out & 1); // outputs are computed in pairs
      return { name, bias, out, even, relu: relu && number > 0, width, stride: layer.in };
    });
    const widest = Math.max(skip, ...this.layers.map(({ even }) => even));
    let size = 2 * LANES * widest;
    for (const layer of this.layers) {
      layer.weight = size;
      layer.start = size + layer.even * layer.width;
      size = layer.start + layer.even;
    }
    const memory = new WebAssembly.Memory({ initial: Math.ceil((4 * size) / 65536) });
    this.numbers = new Float32Array(memory.buffer);
    this.ways = [0, LANES * widest]; // where activations are, in turn
    for (const { name, out, width, stride, weight, start, bias } of this.layers) {
      const given = arrays[name + "_weight"];
      for (let o = 0; o < out; o++)
        this.numbers.set(given.subarray(o * stride, o * stride + width), weight + o * width);
      if (bias) this.numbers.set(arrays[name + "_bias"], start);
    }
    this.run = vectorized(memory) || inJavaScript(this.numbers);
  }

  // The activations (features x LANES) that the next layer reads.
  get input() {
    return this.numbers.subarray(this.ways[0]);
  }

  // Applies one layer, whose output is the next one's input.
  apply(number) {
    const { weight, start, even, width, relu } = this.layers[number], [from, to] = this.ways;
    if (width) this.run(4 * from, 4 * weight, 4 * start, 4 * to, 4 * width, even / 2, relu ? 0 : -Infinity);
    else
      for (let o = 0; o < even; o++) this.numbers.fill(this.numbers[start + o], to + LANES * o, to + LANES * (o + 1));
    this.ways = [to, from];
  }
}

// run(x, weight, bias, y, width, pairs, floor): y[o][b] = max(floor, bias[o] + sum over k of weight[o][k] x[k][b]), o
// below 2 pairs, b below LANES. x, weight, bias and y are addresses, and width is that of a row of weights, in bytes.
function inJavaScript(numbers) {
  return (x, weight, bias, y, width, pairs, floor) => {
    [x, weight, bias, y, width] = [x / 4, weight / 4, bias / 4, y / 4, width / 4];
    for (let o = 0; o < 2 * pairs; o++, weight += width)
      for (let b = 0; b < LANES; b += 4) {
        let s0 = numbers[bias + o], s1 = s0, s2 = s0, s3 = s0;
        for (let k = 0, at = x + b; k < width; k++, at += LANES) {
          const w = numbers[weight + k];
          s0 += w * numbers[at];
          s1 += w * numbers[at + 1];
          s2 += w * numbers[at + 2];
          s3 += w * numbers[at + 3];
        }
        const to = y + LANES * o + b;
        numbers[to] = Math.max(s0, floor);
        numbers[to + 1] = Math.max(s1, floor);
        numbers[to + 2] = Math.max(s2, floor);
        numbers[to + 3] = Math.max(s3, floor);
      }
  };
}

// The same in WebAssembly, or null: two outputs by 16 Gaussians are kept in eight vectors while k runs.
function vectorized(memory) {
  const unsigned = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...unsigned(n >>> 7)]);
  const signed = (n) => (n >= -64 && n < 64 ? [n & 127] : [(n & 127) | 128, ...signed(n >> 7)]);
  const text = (word) => [word.length, ...Array.from(word, (letter) => letter.charCodeAt(0))];
  const [i32, f32, v128] = [0x7f, 0x7d, 0x7b];
  const get = (local) => [0x20, local], set = (local) => [0x21, local];
  const constant = (n) => [0x41, ...signed(n)], vector = (code) => [0xfd, ...unsigned(code)];
  const load = (address, offset) => [...get(address), ...vector(0), 4, ...unsigned(offset)];
  const splat = (address, offset) => [...get(address), ...vector(9), 2, ...unsigned(offset)];
  const store = (address, offset, value) => [...get(address), ...value, ...vector(11), 4, ...unsigned(offset)];
  const add = (local, n) => [...get(local), ...constant(n), 0x6a, ...set(local)];
  const again = (local, step) => [...add(local, -step), ...get(local), 0x0d, 0]; // until the local is 0
  const loop = (...body) => [0x03, 0x40, ...body.flat(), 0x0b];
  const [x, weight, bias, y, width, pairs, floor] = [0, 1, 2, 3, 4, 5, 6]; // the parameters, then locals
  const [k, at, other, value, one, two, least] = [7, 8, 9, 10, 11, 12, 13];
  const sums = [[14, 15, 16, 17], [18, 19, 20, 21]], four = [0, 1, 2, 3];
  const body = [
    ...get(floor), ...vector(19), ...set(least),
    ...loop(
      splat(bias, 0), set(one), splat(bias, 4), set(two),
      sums[0].flatMap((sum) => [...get(one), ...set(sum)]), sums[1].flatMap((sum) => [...get(two), ...set(sum)]),
      get(width), set(k), get(x), set(at), get(weight), get(width), [0x6a], set(other),
      loop(
        splat(weight, 0), set(one), splat(other, 0), set(two),
        four.flatMap((j) => [
          ...load(at, 16 * j), ...set(value),
          ...[one, two].flatMap((w, row) => [
            ...get(sums[row][j]), ...get(w), ...get(value), ...vector(0xe6), ...vector(0xe4), ...set(sums[row][j]), // sum + w value
          ]),
        ]),
        add(weight, 4), add(other, 4), add(at, 4 * LANES), again(k, 4),
      ),
      get(other), set(weight),
      [0, 1].flatMap((row) => four.flatMap((j) =>
        store(y, 4 * LANES * row + 16 * j, [...get(least), ...get(sums[row][j]), ...vector(0xeb)]))), // the larger one
      add(y, 8 * LANES), add(bias, 8), again(pairs, 1),
    ),
    0x0b,
  ];
  const code = [3, 3, i32, 4, v128, 8, v128, ...body]; // locals: three integers, four and eight vectors
  const section = (number, ...content) => [number, ...unsigned(content.length), ...content];
  const bytes = Uint8Array.from([
    0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, 1, 0x60, 7, i32, i32, i32, i32, i32, i32, f32, 0),
    ...section(2, 1, ...text("page"), ...text("memory"), 2, 0, 1),
    ...section(3, 1, 0),
    ...section(7, 1, ...text("run"), 0, 0),
    ...section(10, 1, ...unsigned(code.length), ...code),
  ]);
  if (!WebAssembly.validate(bytes)) return null;
  return new WebAssembly.Instance(new WebAssembly.Module(bytes), { page: { memory } }).exports.run;
}
