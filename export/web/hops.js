// A recording hop by hop: exactly as long when it comes out as when it went in, and in its place.

/**
 * @param channels of the recording: [Float32Array], all equally long
 * @param form {hop, latency} in samples, {sources}, {rows}: channels that one stream takes at once
 * @param begin async (rows) => stream: one stream that takes so many channels, see model.js
 * @param done called with each source and its next interleaved samples: (source, Float32Array)
 * @param tell async (samples): after each second or so, with how much is done; may throw to end it all
 * @param every samples between two calls of tell
 */
export async function separate(channels, form, begin, done, tell = async () => {}, every = 1 << 15) {
  const { hop, latency, sources, rows } = form;
  const length = channels[0].length;
  // A stream's answer to a hop is about the audio that came in so much earlier.
  const late = latency - hop;
  const groups = [];
  for (let from = 0; from < channels.length; from += rows) {
    const part = channels.slice(from, from + rows);
    groups.push({ from, part, stream: await begin(part.length) });
  }
  const hops = Math.ceil((length + late) / hop);
  let told = 0;
  for (let index = 0; index < hops; index++) {
    const start = index * hop;
    const first = Math.max(0, late - start);
    const last = Math.min(hop, length + late - start);
    const mixed = Array.from({ length: sources }, () => new Float32Array(Math.max(0, last - first) * channels.length));
    for (const { from, part, stream } of groups) {
      const audio = new Float32Array(part.length * hop);
      part.forEach((channel, row) => audio.set(channel.subarray(start, start + hop), row * hop));
      const out = await stream.step(audio);
      for (let row = 0; row < part.length; row++) {
        for (let source = 0; source < sources; source++) {
          const at = (row * sources + source) * hop;
          for (let i = first; i < last; i++) mixed[source][(i - first) * channels.length + from + row] = out[at + i];
        }
      }
    }
    if (last > first) mixed.forEach((samples, source) => done(source, samples));
    const ready = Math.max(0, Math.min(length, start + hop - late));
    if (ready - told >= every || index === hops - 1) await tell((told = ready));
  }
}

/** Pieces of interleaved samples as few large ones. */
export class Pieces {
  #ready = [];
  #next;
  #filled = 0;

  constructor(size = 1 << 16) {
    this.#next = new Float32Array(size);
  }

  add(samples) {
    for (let at = 0; at < samples.length; ) {
      const taken = samples.subarray(at, at + this.#next.length - this.#filled);
      this.#next.set(taken, this.#filled);
      [at, this.#filled] = [at + taken.length, this.#filled + taken.length];
      if (this.#filled < this.#next.length) continue;
      this.#keep();
      [this.#next, this.#filled] = [new Float32Array(this.#next.length), 0];
    }
  }

  #keep() {
    // A browser puts large Blobs on disk: stems of an hour do not have to fit into memory.
    this.#ready.push(new Blob([this.#next.subarray(0, this.#filled)]));
  }

  /** @returns a Blob of the header and all samples */
  file(header) {
    if (this.#filled) this.#keep();
    this.#filled = 0;
    return new Blob([header, ...this.#ready], { type: "audio/wav" });
  }
}
