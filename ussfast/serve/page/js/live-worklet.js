// On the browser's audio thread: the microphone goes out in chunks, the mix of the stems to the loudspeaker.
import { Playout } from "./playout.js";

const CHUNK_S = 0.02;
const REPORTS_HZ = 8;

class LiveAudio extends AudioWorkletProcessor {
  #chunk = new Float32Array(Math.round(sampleRate * CHUNK_S));
  #filled = 0;
  #captured = 0;
  #ended = false;
  #hearing = false;
  #power = 0;
  #reported = 0;

  constructor() {
    super();
    const samples = (seconds) => Math.round(seconds * sampleRate);
    this.playout = new Playout({ spare: samples(0.03), most: samples(0.5), patience: samples(3) });
    this.port.onmessage = ({ data }) => {
      if (data.piece) this.playout.receive(data.piece);
      if (data.gains) this.playout.gains = data.gains;
      if (data.begin) this.#begin();
      if (data.hold) this.#hearing = false;
      if (data.ended) this.#ended = true;
    };
  }

  /** From now on the microphone is heard: sample 0 of a stream. */
  #begin() {
    [this.#captured, this.#filled, this.#hearing] = [0, 0, true];
    this.playout.clear();
  }

  process([input], [output]) {
    if (this.#ended) return false;
    const block = output[0];
    // Without a microphone's channel there is silence: the stream goes on.
    this.#capture(input[0] ?? new Float32Array(block.length));
    this.playout.pull(block);
    for (const copy of output.slice(1)) copy.set(block);
    this.#report(block.length);
    return true;
  }

  #capture(heard) {
    for (const sample of heard) this.#power += sample * sample;
    if (!this.#hearing) return;
    this.#captured += heard.length;
    for (let at = 0; at < heard.length; ) {
      const taken = heard.subarray(at, at + this.#chunk.length - this.#filled);
      this.#chunk.set(taken, this.#filled);
      [at, this.#filled] = [at + taken.length, this.#filled + taken.length];
      if (this.#filled < this.#chunk.length) continue;
      const chunk = this.#chunk.slice();
      this.port.postMessage({ chunk }, [chunk.buffer]);
      this.#filled = 0;
    }
  }

  #report(count) {
    this.#reported += count;
    if (this.#reported < sampleRate / REPORTS_HZ) return;
    const input = Math.sqrt(this.#power / this.#reported);
    [this.#reported, this.#power] = [0, 0];
    const { gaps, lost, held, position } = this.playout;
    const [behind, levels] = [this.#captured - position, this.playout.levels()];
    this.port.postMessage({ input, gaps, lost, held, behind, levels });
  }
}

registerProcessor("live-audio", LiveAudio);
