// WAV files, read to the bit and written; what is not read here is left to the browser.
import { Problem } from "./problem.js";

const [PCM, FLOAT, EXTENSIBLE] = [1, 3, 0xfffe];
const MOST_CHANNELS = 64;

/**
 * A WAV of 16-bit integers or 32-bit floats.
 * @param bytes ArrayBuffer
 * @returns {rate, channels: [Float32Array]}, full scale is 1; null for what is no such WAV
 * @throws Problem for a damaged one
 */
export function readWav(bytes) {
  const view = new DataView(bytes);
  if (bytes.byteLength < 12 || text(view, 0) !== "RIFF" || text(view, 8) !== "WAVE") return null;
  let form = null;
  for (let at = 12; at + 8 <= bytes.byteLength; ) {
    const [name, size, from] = [text(view, at), view.getUint32(at + 4, true), at + 8];
    if (name === "fmt ") form = readForm(view, from, size);
    if (name === "data") {
      if (!form) throw new Problem("the WAV does not say what its samples are");
      return form.read ? samples(bytes, from, size, form) : null;
    }
    at = from + size + (size % 2);
  }
  throw new Problem("the WAV has no samples");
}

function readForm(view, at, size) {
  if (size < 16 || at + 16 > view.byteLength) throw new Problem("the WAV does not say what its samples are");
  const short = (offset) => view.getUint16(at + offset, true);
  const [tag, channels, rate, bits] = [short(0), short(2), view.getUint32(at + 4, true), short(14)];
  if (channels < 1 || channels > MOST_CHANNELS || rate < 1) {
    throw new Problem(`the WAV has ${channels} channels at ${rate} Hz`);
  }
  const kind = tag === EXTENSIBLE && size >= 26 && at + 26 <= view.byteLength ? short(24) : tag;
  const read = kind === PCM && bits === 16 ? Int16Array : kind === FLOAT && bits === 32 ? Float32Array : null;
  return { channels, rate, read };
}

function samples(bytes, from, size, { channels, rate, read }) {
  // Programs that write into a pipe do not know the size: what is there counts.
  const frames = Math.floor(Math.min(size, bytes.byteLength - from) / (channels * read.BYTES_PER_ELEMENT));
  if (!frames) throw new Problem("the WAV has no samples");
  const mixed = new read(bytes.slice(from, from + frames * channels * read.BYTES_PER_ELEMENT));
  const full = read === Int16Array ? 32768 : 1;
  const parts = Array.from({ length: channels }, () => new Float32Array(frames));
  parts.forEach((part, channel) => {
    for (let i = 0; i < frames; i++) part[i] = mixed[i * channels + channel] / full;
  });
  return { rate, channels: parts };
}

function text(view, at) {
  return String.fromCharCode(...[0, 1, 2, 3].map((i) => view.getUint8(at + i)));
}

/**
 * What stands in front of interleaved float32 samples.
 * @returns ArrayBuffer
 * @throws Problem for more than the 4 GiB that a WAV holds
 */
export function wavHeader(rate, channels, frames) {
  const size = frames * channels * 4;
  if (size + 50 > 0xffffffff) throw new Problem("The recording is too long: a WAV holds 4 GiB.");
  const view = new DataView(new ArrayBuffer(58));
  const word = (at, name) => [...name].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  const long = (at, value) => view.setUint32(at, value, true);
  const short = (at, value) => view.setUint16(at, value, true);
  word(0, "RIFF"), long(4, size + 50), word(8, "WAVE");
  word(12, "fmt "), long(16, 18), short(20, FLOAT), short(22, channels), long(24, rate);
  long(28, rate * channels * 4), short(32, channels * 4), short(34, 32), short(36, 0);
  word(38, "fact"), long(42, 4), long(46, frames);
  word(50, "data"), long(54, size);
  return view.buffer;
}
