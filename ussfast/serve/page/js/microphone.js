// The microphone, as it is: nothing is taken away before the model hears it.
import { Problem } from "./api.js";
import { wavOf } from "./wav.js";

const REFUSALS = {
  NotAllowedError: "The page may not use the microphone: allow it in the browser, then try again.",
  NotFoundError: "There is no microphone.",
  NotReadableError: "The microphone cannot be opened: does another program use it?",
};
const CHUNK = 4096;

/** @returns MediaStream of one microphone, without what browsers do for calls */
export async function openMicrophone() {
  if (!navigator.mediaDevices?.getUserMedia || typeof AudioWorkletNode === "undefined") {
    throw new Problem("Browsers give the microphone to pages of https and of localhost only.");
  }
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new Problem(REFUSALS[error.name] ?? `The microphone cannot be opened: ${error.message || error.name}`);
  }
}

export const release = (stream) => stream?.getTracks().forEach((track) => track.stop());

/** A recording that runs, until it is stopped. */
export class Recording {
  #chunks = [];

  static async start() {
    const made = new Recording();
    made.stream = await openMicrophone();
    try {
      const context = (made.context = new AudioContext());
      await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
      const options = { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" };
      const node = new AudioWorkletNode(context, "capture", { ...options, processorOptions: { frames: CHUNK } });
      made.node = node;
      made.all = new Promise((done) => (node.port.onmessage = ({ data }) => (data ? made.#chunks.push(data) : done())));
      context.createMediaStreamSource(made.stream).connect(node);
      await context.resume();
    } catch (error) {
      await made.#close();
      throw error;
    }
    return made;
  }

  /** How long it is so far. */
  get seconds() {
    return this.#chunks.reduce((sum, chunk) => sum + chunk.length, 0) / this.context.sampleRate;
  }

  /** @returns File of a WAV; null if nothing was recorded */
  async stop(name) {
    this.node.port.postMessage("end");
    await this.all;
    const rate = this.context.sampleRate;
    await this.#close();
    const samples = new Float32Array(this.#chunks.reduce((sum, chunk) => sum + chunk.length, 0));
    let at = 0;
    for (const chunk of this.#chunks) {
      samples.set(chunk, at);
      at += chunk.length;
    }
    return samples.length ? new File([wavOf([samples], rate)], name, { type: "audio/wav" }) : null;
  }

  async #close() {
    release(this.stream);
    await this.context?.close();
  }
}

/** A button that records when it is pressed, and hands over a file when it is pressed again. */
export function recordButton(button, name, taken, failed) {
  const text = button.textContent;
  let [running, timer] = [null, null];
  const stop = async () => {
    const ending = running;
    running = null;
    clearInterval(timer);
    [button.textContent, button.ariaPressed] = [text, "false"];
    const file = await ending.stop(name());
    if (file) taken([file]);
  };
  const start = async () => {
    button.disabled = true;
    try {
      running = await Recording.start();
    } finally {
      button.disabled = false;
    }
    button.ariaPressed = "true";
    const tell = () => (button.textContent = `Stop recording (${running.seconds.toFixed(0)} s)`);
    tell();
    timer = setInterval(tell, 500);
  };
  button.onclick = async () => {
    try {
      await (running ? stop() : start());
    } catch (error) {
      failed(error);
    }
  };
}
