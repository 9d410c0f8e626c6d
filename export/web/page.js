// The page: which sounds, and what became of them.
import { Client } from "./client.js";
import { Microphone } from "./microphone.js";
import { element, hide, put } from "./parts.js";
import { sentence } from "./problem.js";
import { Recording } from "./recording.js";

/** What the two ways to use the model share. */
class Page {
  #sounds = element("sounds");

  constructor() {
    const program = new URL(`worker.js${location.search}`, import.meta.url);
    this.client = new Client(new Worker(program, { type: "module" }));
    [this.recording, this.microphone] = [new Recording(this), new Microphone(this)];
  }

  /** Opens the model. */
  async open() {
    this.say("The model is loading.");
    try {
      this.model = await this.client.ask("open");
    } catch (error) {
      this.say("");
      return this.fail(error);
    }
    this.model.prompts.forEach((name, at) => {
      const label = put(this.#sounds, "label");
      const box = put(label, "input", { type: "checkbox", name, checked: at < 2, onchange: () => this.#limit() });
      box.after(` ${name}`);
    });
    const { name, rate, threads } = this.model;
    this.say(`Model ${name}, ${rate / 1000} kHz, ${threads === 1 ? "one thread" : `${threads} threads`}: ready.`);
    this.busy(false);
  }

  /** Names of the sounds that are chosen, in the model's order. */
  get chosen() {
    return this.#boxes.filter((box) => box.checked).map((box) => box.name);
  }

  get #boxes() {
    return [...this.#sounds.querySelectorAll("input")];
  }

  /** As many as the model takes at once. */
  #limit() {
    const full = this.chosen.length >= this.model.most;
    for (const box of this.#boxes) box.disabled = full && !box.checked;
  }

  /** While one of the two runs, the other waits, and the sounds stay. */
  busy(working) {
    this.#sounds.disabled = working;
    this.recording.allow(!working);
    this.microphone.allow(!working);
    if (!working) this.#limit();
  }

  say(text) {
    element("status").textContent = text;
  }

  /** Shows an error, or with null that there is none any more. */
  fail(error) {
    element("problem").textContent = error === null ? "" : sentence(error);
    hide("problem", error === null);
  }
}

new Page().open();
