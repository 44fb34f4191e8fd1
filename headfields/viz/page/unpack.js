"use strict";
// Unpacks the arrays of packing.py: base64, deflate, planes of bytes, steps of a range.

async function unpack(table, text) {
  let bytes = decoded(text);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const arrays = {};
  let at = 0;
  for (const { name, kind, rows, columns, low, step } of table) {
    const count = rows * columns;
    if (kind === "float") {
      const joined = new Uint8Array(4 * count);
      for (let p = 0; p < 4; p++) for (let i = 0; i < count; i++) joined[4 * i + p] = bytes[at + p * count + i];
      arrays[name] = new Float32Array(joined.buffer);
      at += 4 * count;
      continue;
    }
    const wide = kind === "wide", out = new Float32Array(count);
    for (let c = 0; c < columns; c++)
      for (let r = 0; r < rows; r++) {
        const i = c * rows + r;
        let q = bytes[at + i];
        if (wide) q += 256 * bytes[at + count + i];
        if (low) out[r * columns + c] = low[c] + step[c] * q;
        else out[r * columns + c] = step * (q & 1 ? -(q + 1) / 2 : q / 2); // 0, 1, 2, 3 are 0, −1, 1, −2
      }
    at += (wide ? 2 : 1) * count;
    arrays[name] = out;
  }
  for (const name of ["faces", "face"]) arrays[name] = Uint32Array.from(arrays[name], Math.round);
  return arrays;
}

function decoded(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}
