// What goes over the WebSocket of a live stream: pieces that come, and what was sent and may be needed again.

export const HEADER_BYTES = 24;

/**
 * A piece of output.
 * @param bytes ArrayBuffer: u8 version, u8 kind, u16 stems, u32 labels_id, u64 first, u32 frames, u32 late_ms, and then
 *   [stem][channel][frame] in float32, all little-endian
 * @returns {labelsId, first, frames, late, rows: [Float32Array of the first channel, one per stem]}
 */
export function pieceOf(bytes, channels = 1) {
  const view = new DataView(bytes);
  if (view.byteLength < HEADER_BYTES || view.getUint8(0) !== 1 || view.getUint8(1) !== 0) return null;
  const [stems, frames] = [view.getUint16(2, true), view.getUint32(16, true)];
  if (view.byteLength !== HEADER_BYTES + stems * channels * frames * 4) return null;
  const rows = Array.from({ length: stems }, (_, stem) => {
    const from = HEADER_BYTES + stem * channels * frames * 4;
    return new Float32Array(bytes.slice(from, from + frames * 4));
  });
  const first = Number(view.getBigUint64(8, true));
  return { labelsId: view.getUint32(4, true), first, frames, late: view.getUint32(20, true), rows };
}

/** What was sent, until the server says that it will never need it again. */
export class Sent {
  #entries = []; // {at, samples} or {at, prompts}
  position = 0;

  /** most: samples that are kept at most, of a server that saves nothing. */
  constructor(most) {
    this.most = most;
  }

  samples(samples) {
    this.#entries.push({ at: this.position, samples });
    this.position += samples.length;
    this.forget(this.position - this.most);
  }

  prompts(prompts) {
    this.#entries.push({ at: this.position, prompts });
  }

  /** The server has carried out the oldest change of prompts, and will do so again by itself. */
  answered() {
    const found = this.#entries.findIndex((entry) => entry.prompts);
    if (found >= 0) this.#entries.splice(found, 1);
  }

  /** Audio before this position is not needed any more. */
  forget(position) {
    this.#entries = this.#entries.filter(({ at, samples }) => !samples || at + samples.length > position);
  }

  /** All from this position on, in order; null if it is no longer there. */
  from(position) {
    const oldest = this.#entries.find(({ samples }) => samples)?.at ?? this.position;
    if (position < oldest || position > this.position) return null;
    return this.#entries
      .filter(({ at, samples }) => !samples || at + samples.length > position)
      .map(({ at, samples, prompts }) => (samples ? samples.subarray(Math.max(0, position - at)) : { prompts }));
  }
}
