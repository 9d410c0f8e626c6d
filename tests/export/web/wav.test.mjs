import assert from "node:assert/strict";
import test from "node:test";

import { readWav, wavHeader } from "../../../export/web/wav.js";

/** A WAV of chunks: [name, bytes]. */
function riff(...chunks) {
  const parts = chunks.map(([name, bytes, size = bytes.length]) => {
    const part = Buffer.alloc(8 + bytes.length + (bytes.length % 2));
    part.write(name, 0, "latin1");
    part.writeUInt32LE(size, 4);
    part.set(bytes, 8);
    return part;
  });
  const whole = Buffer.concat([Buffer.from("RIFF\0\0\0\0WAVE", "latin1"), ...parts]);
  return Uint8Array.from(whole).buffer;
}

function form(tag, channels, rate, bits, more = []) {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt16LE(tag, 0), bytes.writeUInt16LE(channels, 2), bytes.writeUInt32LE(rate, 4);
  bytes.writeUInt16LE(bits, 14);
  return ["fmt ", Buffer.concat([bytes, Buffer.from(more)])];
}

const bytesOf = (array) => Buffer.from(array.buffer);

test("16-bit samples are read to the bit, channel by channel, behind chunks of odd sizes", () => {
  const mixed = Int16Array.of(-32768, 32767, 1, -1, 0, 12345);
  const odd = ["LIST", Buffer.from("abc")];
  const { rate, channels } = readWav(riff(odd, form(1, 2, 32000, 16), ["data", bytesOf(mixed)]));
  assert.equal(rate, 32000);
  assert.deepEqual(channels.map((part) => [...part].map((x) => x * 32768)), [[-32768, 1, 0], [32767, -1, 12345]]);
});

test("floats are read to the bit, also of the extensible form", () => {
  const mixed = Float32Array.of(0.1, -1.5, 1e-30);
  const wide = [22, 0, 32, 0, 4, 0, 0, 0, 3, 0, ...Array(14).fill(0)];
  for (const about of [form(3, 1, 24000, 32), form(0xfffe, 1, 24000, 32, wide)]) {
    assert.deepEqual(readWav(riff(about, ["data", bytesOf(mixed)])), { rate: 24000, channels: [mixed] });
  }
});

test("of a WAV that does not know its size, or is cut, what is there counts", () => {
  const mixed = Int16Array.of(1, 2, 3, 4, 5);
  const { channels } = readWav(riff(form(1, 2, 8000, 16), ["data", bytesOf(mixed), 0xffffffff]));
  assert.deepEqual(channels.map((part) => [...part].map((x) => x * 32768)), [[1, 3], [2, 4]]);
});

test("other files and other samples are left to the browser", () => {
  assert.equal(readWav(new ArrayBuffer(0)), null);
  assert.equal(readWav(Uint8Array.from(Buffer.from("fLaC, and more than that")).buffer), null);
  assert.equal(readWav(riff(form(1, 1, 8000, 24), ["data", Buffer.alloc(6)])), null);
  assert.equal(readWav(riff(form(2, 1, 8000, 4), ["data", Buffer.alloc(6)])), null);
});

test("a damaged one is a problem", () => {
  const samples = ["data", Buffer.alloc(4)];
  assert.throws(() => readWav(riff(samples)), /does not say/);
  assert.throws(() => readWav(riff(["fmt ", Buffer.alloc(3)], samples)), /does not say/);
  assert.throws(() => readWav(riff(form(1, 1, 8000, 16))), /has no samples/);
  assert.throws(() => readWav(riff(form(1, 1, 8000, 16), ["data", Buffer.alloc(1)])), /has no samples/);
  assert.throws(() => readWav(riff(form(1, 0, 8000, 16), samples)), /0 channels/);
  assert.throws(() => readWav(riff(form(1, 1, 0, 16), samples)), /at 0 Hz/);
});

test("what is written is read again", () => {
  const mixed = Float32Array.of(0.25, -3, 7, 1e-9, 0, 1);
  const whole = Buffer.concat([Buffer.from(wavHeader(44100, 3, 2)), bytesOf(mixed)]);
  const bytes = Uint8Array.from(whole).buffer;
  assert.equal(new DataView(bytes).getUint32(4, true), bytes.byteLength - 8);
  const channels = [Float32Array.of(0.25, 1e-9), Float32Array.of(-3, 0), Float32Array.of(7, 1)];
  assert.deepEqual(readWav(bytes), { rate: 44100, channels });
});

test("more than a WAV holds is a problem", () => {
  assert.throws(() => wavHeader(48000, 1, 1073741812), /4 GiB/);
  assert.equal(new DataView(wavHeader(48000, 1, 1073741811)).getUint32(4, true), 0xffffffff - 1);
});
