import assert from "node:assert/strict";
import test from "node:test";

import { Pieces, separate } from "../../../export/web/hops.js";

const HOP = 8;

/** Streams that answer late hops late: with the audio itself, and with its negative. */
function echo(late, begun = []) {
  return async (rows) => {
    const past = Array.from({ length: rows }, () => Array(late).fill(99));
    begun.push(rows);
    return {
      async step(audio) {
        const out = new Float32Array(rows * 2 * HOP);
        past.forEach((row, at) => {
          row.push(...audio.subarray(at * HOP, (at + 1) * HOP));
          row.splice(0, HOP).forEach((x, i) => {
            out[2 * at * HOP + i] = x;
            out[(2 * at + 1) * HOP + i] = -x;
          });
        });
        return out;
      },
    };
  };
}

async function run(channels, late, rows, tell, every) {
  const stems = [[], []];
  const begun = [];
  const form = { hop: HOP, latency: late + HOP, sources: 2, rows };
  await separate(channels, form, echo(late, begun), (source, samples) => stems[source].push(...samples), tell, every);
  return { stems, begun };
}

test("stems are as long as the recording, in their place, for any length and latency", async () => {
  for (const late of [0, 1, 7, 8, 20]) {
    for (const length of [1, 7, 8, 9, 16, 61]) {
      const mono = Float32Array.from({ length }, (_, i) => i + 1);
      const { stems } = await run([mono], late, 4);
      assert.deepEqual(stems, [[...mono], [...mono].map((x) => -x)]);
    }
  }
});

test("channels stay beside each other, more of them than one stream takes, too", async () => {
  const channels = [1, 100, 1000].map((from) => Float32Array.from({ length: 19 }, (_, i) => from + i));
  const { stems, begun } = await run(channels, HOP, 2);
  assert.deepEqual(begun, [2, 1]);
  const mixed = [...channels[0]].flatMap((_, i) => channels.map((channel) => channel[i]));
  assert.deepEqual(stems, [mixed, mixed.map((x) => -x)]);
});

test("it tells how far it is, and ends where telling throws", async () => {
  const told = [];
  await run([new Float32Array(50)], HOP, 1, async (samples) => told.push(samples), 16);
  assert.deepEqual(told, [16, 32, 48, 50]);
  const stop = async () => {
    throw new Error("enough");
  };
  await assert.rejects(run([new Float32Array(50)], HOP, 1, stop, 16), /enough/);
});

test("pieces become one file", async () => {
  const pieces = new Pieces(5);
  for (const count of [1, 3, 12, 0, 2]) pieces.add(new Float32Array(count).fill(count));
  const bytes = await pieces.file(new ArrayBuffer(4)).arrayBuffer();
  const expected = [1, 3, 12, 2].flatMap((count) => Array(count).fill(count));
  assert.deepEqual([...new Float32Array(bytes, 4)], expected);
});
