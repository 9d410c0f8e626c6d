// The microphone, the worklet and the worker, put together.
import { Problem } from "./problem.js";

const REFUSALS = {
  NotAllowedError: "The page may not use the microphone: allow it in the browser, then start again.",
  NotFoundError: "There is no microphone.",
  NotReadableError: "The microphone cannot be opened: does another program use it?",
};

/** A running microphone. */
export class Live {
  #undo = [];
  #stopped = false;

  /**
   * Starts; to be called from a click, or browsers keep the sound off.
   * @param client of the worker
   * @param model what the worker said of it when it was opened
   * @param prompts names
   * @param gains one per prompt
   * @param told called with {held, gaps, lost, levels} and {rtf, slowest}, see ring.js and worker.js
   * @param ended called with a Problem if it ends by itself
   * @throws Problem
   */
  static async start(client, model, prompts, gains, told, ended) {
    const live = new Live();
    try {
      await live.#begin(client, model, prompts, gains, told, ended);
    } catch (error) {
      await live.stop();
      throw error;
    }
    return live;
  }

  async #begin(client, { rate, hop }, prompts, gains, told, ended) {
    if (!navigator.mediaDevices?.getUserMedia || typeof AudioWorkletNode === "undefined") {
      throw new Problem("Browsers give microphones to pages of https and of localhost only.");
    }
    const context = (this.context = this.#context(rate));
    const microphone = await this.#microphone();
    await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
    const processorOptions = { hop, sources: prompts.length, most: Math.max(4 * hop, Math.round(rate / 8)) };
    const options = { processorOptions, channelCount: 1, channelCountMode: "explicit" };
    this.node = new AudioWorkletNode(context, "separates", options);
    this.#undo.push(() => this.node.port.postMessage({ ended: true }));
    this.node.port.onmessage = ({ data }) => told(data);
    this.node.onprocessorerror = () => ended(new Problem("The audio program of the page ended. Load the page again."));
    const { port1, port2 } = new MessageChannel();
    this.#undo.push(() => client.ask("leave"));
    const fail = (error) => this.#stopped || ended(error);
    client.ask("live", { prompts, port: port1 }, [port1], told).catch(fail);
    this.mix(gains);
    this.node.port.postMessage({ worker: port2 }, [port2]);
    microphone.getAudioTracks()[0].onended = () => fail(new Problem("The microphone is gone."));
    this.#source(context, microphone).connect(this.node).connect(context.destination);
    await context.resume();
  }

  #context(rate) {
    try {
      const context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
      this.#undo.push(() => context.close());
      return context;
    } catch {
      throw new Problem(`This browser does not play at the model's ${rate} Hz.`);
    }
  }

  async #microphone() {
    // What browsers do for calls would take away the sounds that are to be separated.
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio });
      this.#undo.push(() => stream.getTracks().forEach((track) => track.stop()));
      return stream;
    } catch (error) {
      throw new Problem(REFUSALS[error.name] ?? `The microphone cannot be opened: ${error.message || error.name}`);
    }
  }

  #source(context, microphone) {
    try {
      return context.createMediaStreamSource(microphone);
    } catch {
      const rate = `the model's ${context.sampleRate} Hz`;
      throw new Problem(`This browser does not bring the microphone to ${rate}: set it to that rate in the system.`);
    }
  }

  /** How loud each stem is in the mix; 1 is as it is. */
  mix(gains) {
    this.node.port.postMessage({ gains });
  }

  /** What the browser and the sound card add to the latency, in seconds, as far as the browser knows. */
  get card() {
    return (this.context.baseLatency || 0) + (this.context.outputLatency || 0);
  }

  /** Ends everything; twice is fine. */
  async stop() {
    this.#stopped = true;
    for (const step of this.#undo.splice(0).reverse()) await step();
  }
}
