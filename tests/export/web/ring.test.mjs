import assert from "node:assert/strict";
import test from "node:test";

import { Exchange, Ring } from "../../../export/web/ring.js";

/** Samples that count: from, from + 1, ... */
const counted = (from, count) => Float32Array.from({ length: count }, (_, i) => from + i);

function pulled(exchange, count) {
  const block = new Float32Array(count);
  exchange.pull(block);
  return [...block];
}

/** Both stems of a hop: as it was, and its negative, twice as loud. */
function stems(hop) {
  return Float32Array.from([...hop, ...hop.map((x) => -2 * x)]);
}

test("a ring gives in order what was written, around its end, and forgets the oldest", () => {
  const ring = new Ring(2, 7);
  let [written, read] = [0, 0];
  for (const count of [3, 4, 2, 6, 1, 7, 5]) {
    ring.write(Float32Array.from([...counted(written, count), ...counted(1000 + written, count)]));
    written += count;
    read = Math.max(read, written - 7);
    assert.equal(ring.length, written - read);
    for (let i = 0; i < ring.length; i++) assert.deepEqual([ring.at(0, i), ring.at(1, i)], [read + i, 1000 + read + i]);
    ring.drop(2);
    read += 2;
  }
  ring.write(counted(0, 20));
  assert.equal(ring.length, 7);
  assert.deepEqual([ring.at(0, 0), ring.at(1, 6)], [3, 19]);
  ring.drop(100);
  assert.equal(ring.length, 0);
});

test("every sample comes out once, in order and mixed, for any sizes of blocks", () => {
  for (const [hop, block] of [[16, 4], [16, 16], [10, 4], [5, 12], [7, 1]]) {
    const exchange = new Exchange({ hop, sources: 2 });
    exchange.gains = Float32Array.of(3, 1);
    const heard = [];
    for (let at = 0; at < 40 * block; at += block) {
      for (const full of exchange.push(counted(at + 1, block))) exchange.receive(stems(full));
      heard.push(...pulled(exchange, block));
    }
    const from = heard.findIndex((x) => x !== 0);
    // Within the first block the gains are on their way.
    const rest = heard.slice(from + block);
    assert.ok(rest.length > 10 * block);
    rest.forEach((x, i) => assert.equal(x, 1 + block + i));
    assert.equal(exchange.held, from, "what is held is how much later it is heard");
    assert.deepEqual([exchange.gaps, exchange.lost], [0, 0]);
  }
});

test("a model that is late makes one gap, and later everything is sooner again", () => {
  const exchange = new Exchange({ hop: 8, sources: 1, most: 64, patience: 80 });
  let late = [];
  const heard = [];
  const run = (from, to, model) => {
    for (let at = from; at < to; at += 8) {
      late.push(...exchange.push(counted(at + 1, 8)));
      if (model) for (const hop of late.splice(0)) exchange.receive(hop);
      heard.push(...pulled(exchange, 8));
    }
  };
  run(0, 80, true);
  const before = exchange.held;
  run(80, 120, false);
  assert.equal(exchange.gaps, 1);
  run(120, 160, true);
  assert.ok(exchange.held > before);
  run(160, 480, true);
  assert.deepEqual([exchange.gaps, exchange.held], [1, before]);
  assert.ok(exchange.lost > 0 && exchange.lost < 40);
  const values = heard.filter((x) => x !== 0);
  assert.ok(values.every((x, i) => i === 0 || x > values[i - 1]), "nothing twice, nothing in another order");
  assert.equal(values.length, 480 - before - exchange.lost);
});

test("a model that is too slow loses audio, and the latency stays within its bounds", () => {
  const exchange = new Exchange({ hop: 8, sources: 1, most: 32 });
  const waiting = [];
  let heard = 0;
  for (let turn = 0; turn < 300; turn++) {
    waiting.push(...exchange.push(counted(turn * 8 + 1, 8)));
    if (turn % 2) exchange.receive(waiting.shift());
    heard += pulled(exchange, 8).filter((x) => x !== 0).length;
    assert.ok(exchange.held <= 2 * 32 + 8);
  }
  assert.ok(exchange.lost > 900 && exchange.gaps > 10);
  assert.ok(heard > 900, "half of it is heard all the same");
});

test("stems that nobody takes are left out, all but the spare ones", () => {
  const exchange = new Exchange({ hop: 8, sources: 1, most: 32 });
  for (let turn = 0; turn < 5; turn++) for (const hop of exchange.push(counted(8 * turn + 1, 8))) exchange.receive(hop);
  assert.deepEqual([exchange.held, exchange.lost], [8, 32]);
  for (const hop of exchange.push(counted(41, 8))) exchange.receive(hop);
  assert.deepEqual(pulled(exchange, 8), [...counted(33, 8)]);
});

test("gains move within a block, and levels are those of the stems", () => {
  const exchange = new Exchange({ hop: 4, sources: 2, spare: 0 });
  const flat = Float32Array.of(1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5);
  for (const hop of [...exchange.push(counted(0, 4)), ...exchange.push(counted(0, 4))]) exchange.receive(flat), hop;
  assert.deepEqual(pulled(exchange, 4), [1.5, 1.5, 1.5, 1.5]);
  exchange.gains = Float32Array.of(0, 1);
  assert.deepEqual(pulled(exchange, 4), [1.25, 1, 0.75, 0.5]);
  const mixed = Math.sqrt((4 * 1.5 ** 2 + 1.25 ** 2 + 1 + 0.75 ** 2 + 0.5 ** 2) / 8);
  assert.deepEqual(exchange.levels(), [1, 0.5, mixed]);
  assert.deepEqual(exchange.levels(), [0, 0, 0]);
});
