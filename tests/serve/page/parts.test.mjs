import assert from "node:assert/strict";
import test from "node:test";

import { parsed } from "../../../ussfast/serve/page/js/api.js";
import { clock, duration, sentence } from "../../../ussfast/serve/page/js/dom.js";
import { stemOf } from "../../../ussfast/serve/page/js/download.js";
import { progressOf } from "../../../ussfast/serve/page/js/jobs.js";
import { loudness } from "../../../ussfast/serve/page/js/player.js";
import { titleOfStem } from "../../../ussfast/serve/page/js/titles.js";
import { wavOf } from "../../../ussfast/serve/page/js/wav.js";

const track = (changes) => ({ mixture: false, gain: 1, solo: false, mute: false, ...changes });

test("solo, mute, gain and the mixture make what is heard", () => {
  const mixture = track({ mixture: true });
  const heard = (comparing, ...stems) => loudness({ tracks: [mixture, ...stems.map(track)], comparing });
  assert.deepEqual(heard(false, {}, { gain: 0.5 }), [0, 1, 0.5]);
  assert.deepEqual(heard(false, { mute: true }, {}), [0, 0, 1]);
  assert.deepEqual(heard(false, { solo: true }, {}, { solo: true, gain: 2 }), [0, 1, 0, 2]);
  assert.deepEqual(heard(false, { solo: true, mute: true }, {}), [0, 0, 0]);
  assert.deepEqual(heard(true, { solo: true }, {}), [1, 0, 0]);
});

test("events of a stream", () => {
  assert.deepEqual(parsed('event: done\ndata: {"a":1}'), { event: "done", data: '{"a":1}' });
  assert.deepEqual(parsed("data:a\ndata: b: c"), { event: "message", data: "a\nb: c" });
  assert.equal(parsed(": still there"), null);
});

test("times in words", () => {
  const times = [0, 9.96, 59.99, 60, 3725.4].map((seconds) => clock(seconds));
  assert.deepEqual(times, ["0:00.0", "0:09.9", "0:59.9", "1:00.0", "1:02:05.4"]);
  assert.equal(clock(0.3), "0:00.3");
  assert.deepEqual([3.04, 59.96, 600].map(duration), ["3.0 s", "0:59 min", "10:00 min"]);
});

test("errors are sentences", () => {
  assert.equal(sentence(new Error("prompts: none was given")), "Prompts: none was given.");
  assert.equal(sentence("Really?"), "Really?");
});

test("repeated prompts have numbers, and users' names stay as they are", () => {
  const prompts = ["sfx", "sfx", "speech", "dog-2"];
  assert.equal(titleOfStem("sfx-2", prompts), "Sound effect 2");
  assert.equal(titleOfStem("speech", prompts), "Speech");
  assert.equal(titleOfStem("dog-2", prompts), "dog-2");
  assert.equal(titleOfStem("residual", prompts), "The rest");
});

test("names of files", () => {
  assert.equal(stemOf("a/b: c?.tar.gz"), "a_b_ c_.tar");
  assert.equal(stemOf(".wav"), "recording");
});

test("progress", () => {
  assert.deepEqual(progressOf({ status: "queued" }), { share: null, text: "Waiting for its turn" });
  const progress = { done_s: 3, total_s: 12, message: null };
  assert.deepEqual(progressOf({ status: "running", progress }), { share: 0.25, text: "Working, 25 %" });
});

test("a WAV has its samples behind its header", async () => {
  const bytes = await wavOf([Float32Array.of(1, 2), Float32Array.of(-1, -2)], 44100).arrayBuffer();
  const view = new DataView(bytes);
  assert.equal(bytes.byteLength, 58 + 16);
  assert.equal(view.getUint32(4, true), bytes.byteLength - 8);
  assert.deepEqual([view.getUint16(20, true), view.getUint16(22, true), view.getUint32(24, true)], [3, 2, 44100]);
  assert.deepEqual([...new Float32Array(bytes.slice(58))], [1, -1, 2, -2]);
});
