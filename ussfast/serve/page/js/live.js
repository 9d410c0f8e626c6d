// Live: the microphone goes to the server, its stems come back, as loud as each is set.
import { element, fail, milliseconds, say, show } from "./dom.js";
import { openMicrophone, release } from "./microphone.js";
import { Mixer } from "./mixer.js";
import { Stream } from "./stream.js";

const STATES = {
  connecting: "Connecting", running: "Live", waiting: "The connection was lost: trying again", ended: "Stopped",
};

export class Live {
  #running = null;
  #late = { pieces: 0, most: 0, all: 0 };

  constructor(model, chooser) {
    [this.model, this.chooser] = [model, chooser];
    this.mixer = new Mixer(element("mix"), (gains) => this.#running?.node?.port.postMessage({ gains }));
    element("start").onclick = () => (this.#running ? this.stop() : this.start());
    chooser.addEventListener("change", () => this.#changed());
    this.#changed();
  }

  #changed() {
    const able = this.model.can_stream !== false;
    element("start").disabled = !this.#running && (!able || !this.chooser.ready);
    element("start-hint").textContent = able
      ? this.chooser.ready ? "" : "Choose at least one sound."
      : "This model separates recordings only: it needs to hear all of one.";
    if (this.chooser.ready) this.#running?.stream?.change(this.chooser.chosen);
  }

  async start() {
    fail(null);
    element("start").disabled = true;
    const running = (this.#running = { undo: [] });
    try {
      await this.#open(running);
      this.#pressed(true);
    } catch (error) {
      this.#running = null;
      await close(running);
      this.#pressed(false);
      this.#changed();
      say("");
      fail(error);
    }
  }

  async #open(running) {
    say("The microphone is being opened.");
    const microphone = await openMicrophone();
    running.undo.push(() => release(microphone));
    const context = (running.context = new AudioContext({ latencyHint: "interactive" }));
    running.undo.push(() => context.close());
    await context.audioWorklet.addModule(new URL("live-worklet.js", import.meta.url));
    const options = { channelCount: 1, channelCountMode: "explicit", outputChannelCount: [1] };
    const node = (running.node = new AudioWorkletNode(context, "live-audio", options));
    running.undo.push(() => node.port.postMessage({ ended: true }));
    this.#late = { pieces: 0, most: 0, all: 0 };
    this.prompts = this.chooser.chosen;
    const told = (...said) => this.#told(running, ...said);
    const stream = (running.stream = new Stream(context.sampleRate, this.prompts, told));
    running.undo.push(() => stream.close());
    await stream.start();
    node.port.onmessage = ({ data }) => (data.chunk ? stream.push(data.chunk) : this.#figures(running, data));
    microphone.getAudioTracks()[0].onended = () => this.#failed(running, new Error("The microphone is gone."));
    const ended = new Error("The audio program of the page ended. Load it again.");
    node.onprocessorerror = () => this.#failed(running, ended);
    context.createMediaStreamSource(microphone).connect(node).connect(context.destination);
    await context.resume();
  }

  get on() {
    return this.#running !== null;
  }

  /** The stream of now, if there is one. */
  get stream() {
    return this.#running?.stream ?? null;
  }

  async stop() {
    const running = this.#running;
    this.#running = null;
    await close(running);
    this.#pressed(false);
    this.#changed();
    say("The microphone is off.");
  }

  #pressed(on) {
    const button = element("start");
    button.disabled = false;
    button.textContent = on ? "Stop" : "Start listening";
    show("live-figures", on);
    if (!on) this.mixer.clear();
  }

  #failed(running, error) {
    if (this.#running === running) this.stop();
    fail(error);
  }

  #told(running, name, data) {
    const work = {
      state: () => this.#state(data),
      started: () => this.#started(running, data),
      labels: () => this.mixer.show(data, this.prompts),
      piece: () => this.#piece(running, data),
      prompts: () => ((this.prompts = this.chooser.chosen), this.mixer.show(data.labels, this.prompts)),
      swapped: () => say(`${data.prompt} has learned: from now on it is the new one.`),
      draining: () => say("The server is being restarted: the stream goes on with the next one."),
      restarted: () => this.#restarted(running),
      problem: () => this.#failed(running, data),
    }[name];
    work?.();
  }

  #started({ node }, { latency_s: latency }) {
    node.port.postMessage({ begin: true });
    this.latency = latency;
    say("Listening.");
  }

  #restarted({ node }) {
    node.port.postMessage({ hold: true });
    say("The stream had to begin anew: what was said meanwhile is lost.");
  }

  #state(state) {
    const place = element("live-state");
    [place.textContent, place.dataset.state] = [STATES[state], state];
    if (state === "waiting") say("The connection was lost: what you say now is kept until it is back.");
    if (state === "running") say("Listening.");
  }

  #piece({ node }, piece) {
    const { labels, rows, first, late } = piece;
    this.#late.all++;
    if (late) this.#late.pieces++;
    this.#late.most = Math.max(this.#late.most, late);
    node.port.postMessage({ piece: { labels, rows, first } }, rows.map((row) => row.buffer));
  }

  #figures({ context }, { input, gaps, lost, held, behind, levels }) {
    const card = (context.baseLatency || 0) + (context.outputLatency || 0);
    const rate = context.sampleRate;
    const network = Math.max(0, (behind - held) / rate - (this.latency ?? 0));
    const parts = [["model", this.latency ?? 0], ["network", network], ["buffer", held / rate], ["output", card]];
    const text = parts.map(([name, seconds]) => `${name} ${milliseconds(seconds)}`).join(", ");
    element("latency").textContent = held || behind < rate ? milliseconds(behind / rate + card) : "-";
    element("latency-parts").textContent = text;
    const { pieces, most, all } = this.#late;
    element("late").dataset.pieces = all;
    element("late").textContent = pieces ? `${pieces} of ${all}, at most ${most} ms` : `none of ${all}`;
    element("gaps").textContent = `${gaps}, ${milliseconds(lost / rate)} left out`;
    element("heard").value = input;
    this.mixer.levels(levels);
  }
}

async function close(running) {
  for (const step of running.undo.splice(0).reverse()) await step();
}
