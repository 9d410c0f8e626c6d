// Between a network, which is late at times, and a sound card, which never waits.

/**
 * Pieces of stems come in, a mix goes out. What is not there in time is a gap, after which everything is a little
 * later; what has piled up is left out.
 * gaps: how many. lost: samples that were left out. position: the sample of the input that is heard next.
 */
export class Playout {
  #pieces = []; // {labels, rows, at: samples of it that were heard already}
  #held = 0;
  #playing = false;
  #gains = {}; // as they were in the last block, by label
  #powers = new Map();
  #counted = 0;
  #quiet = 0;
  #least = Infinity;
  gains = {};
  gaps = 0;
  lost = 0;
  position = 0;

  /**
   * All in samples. spare: kept ready before anything is heard; most: at once; patience: how long without a gap until
   * what is ready for nothing is left out, where it is more than half of what is to spare.
   */
  constructor({ spare, most, patience }) {
    [this.spare, this.most, this.patience] = [spare, most, patience];
  }

  /** Samples that wait. */
  get held() {
    return this.#held;
  }

  receive({ labels, rows, first }) {
    const frames = rows[0]?.length ?? 0;
    if (!frames) return;
    if (!this.#pieces.length) this.position = first;
    this.#pieces.push({ labels, rows, at: 0 });
    this.#held += frames;
    if (this.#held > this.most) this.#shorten(this.#held - this.spare);
  }

  /** Forgets all that waits: another stream begins. */
  clear() {
    [this.#pieces, this.#held, this.#playing] = [[], 0, false];
  }

  /** Fills a block with the mix. */
  pull(block) {
    block.fill(0);
    this.#playing ||= this.#held >= this.spare + block.length;
    if (!this.#playing) return;
    const ready = Math.min(block.length, this.#held);
    for (let from = 0; from < ready; ) from += this.#add(block, from, ready);
    this.#gains = { ...this.gains };
    this.#counted += ready;
    if (ready === block.length) return this.#settle(ready);
    [this.gaps, this.#playing] = [this.gaps + 1, false];
    [this.#quiet, this.#least] = [0, Infinity];
  }

  #add(block, from, ready) {
    const piece = this.#pieces[0];
    const count = Math.min(piece.rows[0].length - piece.at, ready - from);
    piece.rows.forEach((row, at) => {
      const label = piece.labels[at] ?? String(at);
      const [before, after] = [this.#gains[label] ?? this.gains[label] ?? 0, this.gains[label] ?? 0];
      let power = 0;
      for (let i = 0; i < count; i++) {
        const sample = row[piece.at + i];
        power += sample * sample;
        block[from + i] += sample * (before + ((after - before) * (from + i + 1)) / block.length);
      }
      this.#powers.set(label, (this.#powers.get(label) ?? 0) + power);
    });
    this.#drop(count);
    return count;
  }

  #drop(count) {
    for (let left = count; left > 0 && this.#pieces.length; ) {
      const piece = this.#pieces[0];
      const gone = Math.min(left, piece.rows[0].length - piece.at);
      piece.at += gone;
      left -= gone;
      if (piece.at === piece.rows[0].length) this.#pieces.shift();
    }
    this.#held -= count;
    this.position += count;
  }

  /** Sooner again, once for long more was ready than was needed. */
  #settle(count) {
    this.#quiet += count;
    this.#least = Math.min(this.#least, this.#held);
    if (this.#quiet < this.patience) return;
    if (this.#least > 1.5 * this.spare) this.#shorten(this.#least - this.spare);
    [this.#quiet, this.#least] = [0, Infinity];
  }

  #shorten(count) {
    if (count <= 0) return;
    this.lost += count;
    this.#drop(count);
  }

  /** Roots of the mean squares since the last call, by label. */
  levels() {
    const count = Math.max(1, this.#counted);
    const levels = Object.fromEntries([...this.#powers].map(([label, power]) => [label, Math.sqrt(power / count)]));
    this.#powers.clear();
    this.#counted = 0;
    return levels;
  }
}
