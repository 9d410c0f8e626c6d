// What lies between a sound card, which never waits, and a model that sometimes is late.

/** Samples that wait, of several sources beside each other; the oldest come out first. */
export class Ring {
  #rows;
  #from = 0;
  length = 0;

  constructor(sources, capacity) {
    this.capacity = capacity;
    this.#rows = Array.from({ length: sources }, () => new Float32Array(capacity));
  }

  /** samples: [sources * count], one source after the other. Of what there is no room for, the oldest go. */
  write(samples) {
    const count = samples.length / this.#rows.length;
    const skipped = Math.max(0, count - this.capacity);
    this.drop(Math.max(0, this.length + count - skipped - this.capacity));
    const at = (this.#from + this.length) % this.capacity;
    const first = Math.min(count - skipped, this.capacity - at);
    this.#rows.forEach((row, source) => {
      const [from, to] = [source * count + skipped, (source + 1) * count];
      row.set(samples.subarray(from, from + first), at);
      row.set(samples.subarray(from + first, to), 0);
    });
    this.length += count - skipped;
  }

  /** Sample i of those that wait. */
  at(source, i) {
    return this.#rows[source][(this.#from + i) % this.capacity];
  }

  drop(count) {
    const gone = Math.min(count, this.length);
    this.#from = (this.#from + gone) % this.capacity;
    this.length -= gone;
  }
}

/**
 * Audio in blocks of any size goes to the model as hops, and comes back as sources that are mixed.
 * A hop that is late is a gap, and everything is that much later from then on, until for a while nothing was late.
 * gaps: how many there were. lost: samples that were left out, because the model is behind, or to be early again.
 */
export class Exchange {
  #part;
  #filled = 0;
  #waiting = 0;
  #playing = false;
  #ring;
  #gains;
  #powers;
  #counted = 0;
  #quiet = 0;
  #least = Infinity;

  /**
   * All in samples. spare: of the stems, kept ready before anything is heard; most: at once in the model, and of the
   * stems; patience: without a gap, until what more is ready than was needed is left out.
   */
  constructor({ hop, sources, spare = hop, most = 8 * hop, patience = 400 * hop }) {
    [this.hop, this.sources, this.spare, this.most, this.patience] = [hop, sources, spare, most, patience];
    this.#part = new Float32Array(hop);
    this.#ring = new Ring(sources, most + hop);
    this.#gains = this.gains = new Float32Array(sources).fill(1);
    this.#powers = new Float64Array(sources + 1);
    [this.gaps, this.lost] = [0, 0];
  }

  /** Samples between what came in last and what is heard next. */
  get held() {
    return this.#filled + this.#waiting * this.hop + this.#ring.length;
  }

  /** @returns hops that are full now, each to be given away. While the model is far behind, audio is lost. */
  push(block) {
    const full = [];
    for (let at = 0; at < block.length; ) {
      const taken = block.subarray(at, at + this.hop - this.#filled);
      this.#part.set(taken, this.#filled);
      [at, this.#filled] = [at + taken.length, this.#filled + taken.length];
      if (this.#filled < this.hop) continue;
      this.#filled = 0;
      if (this.#waiting * this.hop >= this.most) {
        this.lost += this.hop;
        continue;
      }
      this.#waiting++;
      full.push(this.#part);
      this.#part = new Float32Array(this.hop);
    }
    return full;
  }

  /** What the model made of the oldest hop: [sources * hop]. */
  receive(samples) {
    this.#waiting--;
    this.#ring.write(samples);
    if (this.#ring.length > this.most) this.#shorten(this.#ring.length - this.spare);
  }

  /** Fills a block with the mix. gains may change at any time: they move there within the block. */
  pull(block) {
    block.fill(0);
    this.#playing ||= this.#ring.length >= this.spare + block.length;
    if (!this.#playing) return;
    const ready = Math.min(block.length, this.#ring.length);
    for (let source = 0; source < this.sources; source++) {
      const [before, after] = [this.#gains[source], this.gains[source]];
      for (let i = 0; i < ready; i++) {
        const sample = this.#ring.at(source, i);
        this.#powers[source] += sample * sample;
        block[i] += sample * (before + ((after - before) * (i + 1)) / block.length);
      }
    }
    this.#gains = this.gains;
    for (const sample of block) this.#powers[this.sources] += sample * sample;
    this.#counted += ready;
    this.#ring.drop(ready);
    if (ready < block.length) {
      [this.gaps, this.#playing] = [this.gaps + 1, false];
      [this.#quiet, this.#least] = [0, Infinity];
    } else this.#settle(ready);
  }

  /** Sooner again, once the stems for long were ready earlier than they had to be. */
  #settle(count) {
    this.#quiet += count;
    this.#least = Math.min(this.#least, this.#ring.length);
    if (this.#quiet < this.patience) return;
    this.#shorten(this.#least - this.spare);
    [this.#quiet, this.#least] = [0, Infinity];
  }

  #shorten(count) {
    if (count <= 0) return;
    this.lost += count;
    this.#ring.drop(count);
  }

  /** Roots of the mean squares since the last call: of each source, and last of the mix. */
  levels() {
    const levels = [...this.#powers].map((power) => Math.sqrt(power / Math.max(1, this.#counted)));
    this.#powers.fill(0);
    this.#counted = 0;
    return levels;
  }
}
