// On the browser's audio thread: the microphone's audio goes to the model, the mix of its stems to the loudspeaker.
import { Exchange } from "./ring.js";

const REPORTS_HZ = 4;

class Separates extends AudioWorkletProcessor {
  #worker = null;
  #ended = false;
  #reported = 0;

  constructor({ processorOptions }) {
    super();
    this.exchange = new Exchange(processorOptions);
    this.port.onmessage = ({ data }) => {
      if (data.gains) this.exchange.gains = Float32Array.from(data.gains);
      if (data.ended) this.#ended = true;
      if (!data.worker) return;
      this.#worker = data.worker;
      this.#worker.onmessage = (event) => this.exchange.receive(event.data);
    };
  }

  process([input], [output]) {
    if (this.#ended) return false;
    const block = output[0];
    // Without a microphone's channel there is silence: the stream goes on.
    const heard = input[0] ?? new Float32Array(block.length);
    for (const hop of this.exchange.push(heard)) this.#worker?.postMessage(hop, [hop.buffer]);
    this.exchange.pull(block);
    for (const copy of output.slice(1)) copy.set(block);
    this.#report(block);
    return true;
  }

  #report(block) {
    this.#reported += block.length;
    if (this.#reported < sampleRate / REPORTS_HZ) return;
    this.#reported = 0;
    const { held, gaps, lost } = this.exchange;
    this.port.postMessage({ held, gaps, lost, levels: this.exchange.levels() });
  }
}

registerProcessor("separates", Separates);
