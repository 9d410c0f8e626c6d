// On the browser's audio thread: one channel of what comes in, in chunks.
class Capture extends AudioWorkletProcessor {
  #chunk;
  #filled = 0;
  #ended = false;

  constructor({ processorOptions: { frames } }) {
    super();
    this.#chunk = new Float32Array(frames);
    this.port.onmessage = () => {
      this.port.postMessage(this.#chunk.slice(0, this.#filled));
      this.port.postMessage(null);
      this.#ended = true;
    };
  }

  process([input]) {
    if (this.#ended) return false;
    const block = input[0];
    for (let at = 0; block && at < block.length; ) {
      const taken = block.subarray(at, at + this.#chunk.length - this.#filled);
      this.#chunk.set(taken, this.#filled);
      [at, this.#filled] = [at + taken.length, this.#filled + taken.length];
      if (this.#filled < this.#chunk.length) continue;
      this.port.postMessage(this.#chunk);
      this.#filled = 0;
    }
    return true;
  }
}

registerProcessor("capture", Capture);
