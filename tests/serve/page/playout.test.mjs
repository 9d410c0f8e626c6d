import assert from "node:assert/strict";
import test from "node:test";

import { Playout } from "../../../ussfast/serve/page/js/playout.js";

const SIZES = { spare: 20, most: 100, patience: 1000 };
const row = (from, count, sign = 1) => Float32Array.from({ length: count }, (_, i) => sign * (from + i));

/** A piece of two stems, of which one is the negative of the other and ten times as loud. */
function piece(first, count) {
  return { labels: ["a", "b"], first, rows: [row(first, count), row(first, count, -10)] };
}

function pulled(playout, count) {
  const block = new Float32Array(count);
  playout.pull(block);
  return [...block];
}

function made(gains = { a: 1 }, sizes = SIZES) {
  const playout = new Playout(sizes);
  playout.gains = gains;
  return playout;
}

test("nothing is heard until there is some to spare, then everything in order", () => {
  const playout = made();
  playout.receive(piece(1, 25));
  assert.deepEqual(pulled(playout, 10), Array(10).fill(0));
  playout.receive(piece(26, 7));
  assert.deepEqual([...pulled(playout, 10), ...pulled(playout, 10), ...pulled(playout, 10)], [...row(1, 30)]);
  assert.equal(playout.position, 31);
  assert.equal(playout.gaps, 0);
});

test("a gain moves within a block, over the border of pieces, and labels keep theirs", () => {
  const playout = made({ a: 0 });
  for (const first of [1, 16, 31]) playout.receive({ labels: ["a"], first, rows: [new Float32Array(15).fill(1)] });
  pulled(playout, 10);
  playout.gains = { a: 1 };
  const block = pulled(playout, 10);
  block.forEach((sample, at) => assert.ok(Math.abs(sample - (at + 1) / 10) < 1e-6));
  assert.deepEqual(pulled(playout, 10), Array(10).fill(1));
  // A label that was not there before begins at its own gain.
  playout.gains = { a: 0, c: 2 };
  playout.clear();
  for (const first of [0, 20]) playout.receive({ labels: ["c"], first, rows: [new Float32Array(20).fill(1)] });
  assert.deepEqual(pulled(playout, 10), Array(10).fill(2));
});

test("what is missing is a gap, after which some is spared again", () => {
  const playout = made();
  playout.receive(piece(1, 32));
  pulled(playout, 10), pulled(playout, 10), pulled(playout, 10);
  assert.deepEqual(pulled(playout, 10), [31, 32, ...Array(8).fill(0)]);
  assert.equal(playout.gaps, 1);
  playout.receive(piece(33, 10));
  assert.deepEqual(pulled(playout, 10), Array(10).fill(0), "not enough to spare");
  playout.receive(piece(43, 30));
  assert.deepEqual(pulled(playout, 10), [...row(33, 10)], "and no sample is left out");
});

test("what has piled up is left out, and is counted", () => {
  const playout = made();
  for (let first = 0; first < 120; first += 30) playout.receive(piece(first, 30));
  assert.equal(playout.held, 20);
  assert.equal(playout.lost, 100);
  assert.equal(playout.position, 100);
  playout.receive(piece(120, 30));
  assert.deepEqual(pulled(playout, 10), [...row(100, 10)]);
});

test("once for long more was ready than was needed, it is sooner again", () => {
  const playout = made({ a: 1 }, { ...SIZES, patience: 200 });
  let first = 0;
  const more = (count) => (playout.receive(piece(first, count)), (first += count));
  more(80);
  for (let turn = 0; turn < 25; turn++) pulled(playout, 10), more(10);
  assert.equal(playout.held, 30, "a block and what is to spare");
  assert.equal(playout.lost, 50);
  for (let turn = 0; turn < 50; turn++) pulled(playout, 10), more(10);
  assert.equal(playout.lost, 50);
});

test("levels are of each stem by itself, whatever its gain", () => {
  const playout = made({ a: 0, b: 0 });
  const rows = [new Float32Array(40).fill(0.5), new Float32Array(40).fill(0.25)];
  playout.receive({ labels: ["a", "b"], first: 0, rows });
  pulled(playout, 10);
  assert.deepEqual(playout.levels(), { a: 0.5, b: 0.25 });
  assert.deepEqual(playout.levels(), {});
});
