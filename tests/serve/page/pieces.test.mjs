import assert from "node:assert/strict";
import test from "node:test";

import { HEADER_BYTES, pieceOf, Sent } from "../../../ussfast/serve/page/js/pieces.js";

/** A piece as the server writes it: two stems of three frames. */
function written({ version = 1, kind = 0, frames = 3, first = 2 ** 33 + 7 } = {}) {
  const bytes = new ArrayBuffer(HEADER_BYTES + 2 * 3 * 4);
  const view = new DataView(bytes);
  view.setUint8(0, version);
  view.setUint8(1, kind);
  view.setUint16(2, 2, true);
  view.setUint32(4, 9, true);
  view.setBigUint64(8, BigInt(first), true);
  view.setUint32(16, frames, true);
  view.setUint32(20, 41, true);
  [1, 2, 3, -1, -2, -3].forEach((sample, at) => view.setFloat32(HEADER_BYTES + 4 * at, sample, true));
  return bytes;
}

test("a piece says which samples it has", () => {
  const piece = pieceOf(written());
  assert.deepEqual([piece.labelsId, piece.first, piece.frames, piece.late], [9, 2 ** 33 + 7, 3, 41]);
  assert.deepEqual(piece.rows.map((row) => [...row]), [[1, 2, 3], [-1, -2, -3]]);
});

test("of several channels the first is heard", () => {
  const bytes = written({ frames: 1 });
  const short = bytes.slice(0, HEADER_BYTES + 2 * 2 * 4);
  assert.deepEqual(pieceOf(short, 2).rows.map((row) => [...row]), [[1], [3]]);
});

test("what is no piece is none", () => {
  assert.equal(pieceOf(written({ version: 2 })), null);
  assert.equal(pieceOf(written({ kind: 1 })), null);
  assert.equal(pieceOf(written({ frames: 4 })), null);
  assert.equal(pieceOf(new ArrayBuffer(5)), null);
});

const chunk = (from, count = 10) => Float32Array.from({ length: count }, (_, i) => from + i);
const flat = (entries) => entries.flatMap((entry) => (entry.prompts ? [entry.prompts] : [...entry]));

test("what was sent comes again from any place that is still needed", () => {
  const sent = new Sent(1e6);
  for (const from of [0, 10, 20]) sent.samples(chunk(from));
  assert.equal(sent.position, 30);
  assert.deepEqual(flat(sent.from(0)), [...chunk(0, 30)]);
  assert.deepEqual(flat(sent.from(13)), [...chunk(13, 17)]);
  assert.deepEqual(sent.from(30), []);
  sent.forget(15);
  assert.deepEqual(flat(sent.from(15)), [...chunk(15, 15)]);
  assert.equal(sent.from(5), null, "it is gone");
  assert.equal(sent.from(31), null, "it never was");
});

test("a change of prompts comes again where it was, until it was answered", () => {
  const sent = new Sent(1e6);
  sent.samples(chunk(0));
  sent.prompts(["speech"]);
  sent.samples(chunk(10));
  sent.prompts(["drums"]);
  assert.deepEqual(flat(sent.from(8)), [8, 9, ["speech"], ...chunk(10), ["drums"]]);
  sent.answered();
  assert.deepEqual(flat(sent.from(8)), [8, 9, ...chunk(10), ["drums"]]);
  sent.forget(20);
  assert.deepEqual(flat(sent.from(20)), [["drums"]], "the input is not needed any more, the change is");
});

test("no more is kept than was said", () => {
  const sent = new Sent(25);
  for (let from = 0; from < 1000; from += 10) sent.samples(chunk(from));
  assert.equal(sent.from(960), null);
  assert.deepEqual(flat(sent.from(975)), [...chunk(975, 25)]);
});
