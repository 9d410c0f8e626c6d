// The microphone on the page: start and stop, how loud each stem is, and how fast it all goes.
import { Live } from "./live.js";
import { element, hide, milliseconds, put } from "./parts.js";
import { Problem } from "./problem.js";

export class Microphone {
  #page;
  #button = element("live");
  #running = null;
  #sliders = [];
  #meters = [];

  constructor(page) {
    this.#page = page;
    this.#button.onclick = () => (this.#running ? this.#stop() : this.#start());
  }

  allow(allowed) {
    this.#button.disabled = !allowed && !this.#running;
  }

  async #start() {
    const page = this.#page;
    const prompts = page.chosen;
    page.fail(null);
    if (!prompts.length) return page.fail(new Problem("Choose at least one sound."));
    page.busy(true);
    this.#rows(prompts);
    page.say("The microphone is being opened.");
    let over = false;
    const ended = (error) => {
      over = true;
      page.fail(error);
      return this.#running && this.#stop();
    };
    try {
      const told = (figures) => this.#show(figures);
      this.#running = await Live.start(page.client, page.model, prompts, this.#gains, told, ended);
    } catch (error) {
      page.say("");
      page.busy(false);
      return page.fail(error);
    }
    // It can end while it starts.
    if (over) return this.#stop();
    this.#pressed(true);
    page.say("Listening.");
  }

  async #stop() {
    const running = this.#running;
    this.#running = null;
    await running?.stop();
    this.#pressed(false);
    this.#page.busy(false);
    this.#page.say("The microphone is off.");
  }

  #pressed(on) {
    this.#button.disabled = false;
    this.#button.textContent = on ? "Stop" : "Start";
    this.#button.ariaPressed = String(on);
    hide("figures", !on);
  }

  get #gains() {
    return this.#sliders.map((slider) => Number(slider.value));
  }

  #rows(prompts) {
    const mix = element("mix");
    mix.replaceChildren();
    [this.#sliders, this.#meters] = [[], []];
    prompts.forEach((prompt, at) => {
      const item = put(mix, "li");
      put(item, "span", { textContent: prompt });
      // At first only one is heard: all together are what went in.
      const range = { type: "range", min: 0, max: 2, step: 0.01, value: at ? 0 : 1 };
      const slider = put(item, "input", { ...range, ariaLabel: `How loud ${prompt} is` });
      slider.oninput = () => this.#running?.mix(this.#gains);
      this.#sliders.push(slider);
      this.#meters.push(put(item, "meter", { max: 0.3, value: 0, ariaLabel: `Level of ${prompt}` }));
    });
  }

  #show({ held, gaps, lost, levels, rtf, slowest }) {
    if (rtf !== undefined) {
      const slow = rtf > 1 ? ": too slow for so many sounds" : "";
      element("rtf").textContent = `${rtf.toFixed(3)}, slowest ${slowest.toFixed(3)}${slow}`;
      element("rtf").dataset.rtf = rtf;
    }
    if (held === undefined) return;
    const { rate, hop, latency } = this.#page.model;
    // Of what is held, one hop is the one that is being collected, which the model's latency counts.
    const [own, waits, card] = [latency / rate, Math.max(0, held - hop) / rate, this.#running?.card ?? 0];
    const parts = `model ${milliseconds(own)}, buffer ${milliseconds(waits)}, output ${milliseconds(card)}`;
    element("latency").textContent = `${milliseconds(own + waits + card)}: ${parts}`;
    element("gaps").textContent = `${gaps} gaps, ${milliseconds(lost / rate)} left out`;
    [...this.#meters, element("heard")].forEach((meter, at) => (meter.value = meter.dataset.level = levels[at]));
  }
}
