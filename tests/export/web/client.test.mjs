import assert from "node:assert/strict";
import test from "node:test";

import { Client } from "../../../export/web/client.js";
import { decode } from "../../../export/web/decode.js";
import { wavHeader } from "../../../export/web/wav.js";

function stub() {
  const worker = { sent: [], postMessage: (data) => worker.sent.push(data) };
  return [new Client(worker), worker];
}

test("answers find their questions, in any order, and problems are errors", async () => {
  const [client, worker] = stub();
  const told = [];
  const [first, second] = [client.ask("a", { x: 1 }), client.ask("b", {}, [], (text) => told.push(text))];
  const [one, two] = worker.sent;
  assert.deepEqual([one.kind, one.x, two.kind], ["a", 1, "b"]);
  worker.onmessage({ data: { id: two.id, told: "half" } });
  worker.onmessage({ data: { id: two.id, problem: "no" } });
  worker.onmessage({ data: { id: one.id, answer: 7 } });
  worker.onmessage({ data: { id: one.id, answer: 8 } });
  assert.equal(await first, 7);
  await assert.rejects(second, /^Problem: no$/);
  assert.deepEqual(told, ["half"]);
});

test("a worker that ended fails what is open and what comes", async () => {
  const [client, worker] = stub();
  const open = client.ask("a");
  worker.onerror({ message: "syntax" });
  await assert.rejects(open, /ended: syntax/);
  await assert.rejects(client.ask("b"), /Load the page again/);
});

const file = (name, ...parts) => new File(parts, name);

test("a WAV at the model's rate is read here, all else by the browser at that rate", async () => {
  const samples = Float32Array.of(0.5, -0.25);
  const wav = file("a.wav", wavHeader(8000, 1, 2), samples);
  assert.deepEqual(await decode(wav, 8000), [samples]);
  const asked = [];
  globalThis.OfflineAudioContext = class {
    constructor(...sizes) {
      asked.push(sizes);
    }
    async decodeAudioData(bytes) {
      if (bytes.byteLength < 10) throw new Error("EncodingError");
      return { numberOfChannels: 2, getChannelData: (channel) => Float32Array.of(channel, 1) };
    }
  };
  assert.deepEqual(await decode(wav, 16000), [Float32Array.of(0, 1), Float32Array.of(1, 1)]);
  assert.deepEqual(asked, [[1, 1, 16000]]);
  await assert.rejects(decode(file("b.mp3", "noise"), 8000), /^Problem: b.mp3 is not audio that this browser reads\.$/);
});

test("files without audio are problems", async () => {
  await assert.rejects(decode(file("a.wav"), 8000), /a\.wav is empty/);
  await assert.rejects(decode(file("a.wav", wavHeader(8000, 1, 0)), 8000), /a\.wav: the WAV has no samples\./);
  const odd = file("a.wav", wavHeader(8000, 1, 2), Float32Array.of(1, NaN));
  await assert.rejects(decode(odd, 8000), /not all its samples are numbers/);
  const gone = { name: "folder", arrayBuffer: async () => Promise.reject(new Error("NotFoundError")) };
  await assert.rejects(decode(gone, 8000), /folder cannot be read/);
});
