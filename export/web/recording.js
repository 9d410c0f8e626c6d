// A recording on the page: chosen or dropped, separated, to be heard and kept.
import { decode } from "./decode.js";
import { element, hide, put } from "./parts.js";

export class Recording {
  #page;
  #input = element("file");
  #urls = [];

  constructor(page) {
    this.#page = page;
    this.#input.onchange = () => this.#take(this.#input.files);
    element("cancel").onclick = () => page.client.ask("stop");
    const drop = element("drop");
    // Beside the place for it, too: a browser would leave the page and open the file.
    window.ondragover = (event) => event.preventDefault();
    window.ondrop = (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (!this.#input.disabled) this.#take(event.dataTransfer.files);
    };
    drop.ondragenter = () => drop.classList.add("over");
    drop.ondragleave = ({ relatedTarget }) => drop.contains(relatedTarget) || drop.classList.remove("over");
  }

  allow(allowed) {
    this.#input.disabled = !allowed;
  }

  async #take([file]) {
    if (!file) return;
    const page = this.#page;
    page.fail(null);
    page.busy(true);
    this.#clear();
    try {
      await this.#separate(file, page.chosen);
    } catch (error) {
      page.fail(error);
      page.say("");
    }
    hide("work", true);
    page.busy(false);
    // The same file can be chosen again.
    this.#input.value = "";
  }

  #clear() {
    this.#urls.splice(0).forEach((url) => URL.revokeObjectURL(url));
    element("stems").replaceChildren();
    element("speed").textContent = "";
  }

  async #separate(file, prompts) {
    const page = this.#page;
    page.say(`${file.name} is being read.`);
    const channels = await decode(file, page.model.rate);
    const length = channels[0].length;
    page.say(`${file.name} is being separated.`);
    element("progress").value = 0;
    hide("work", false);
    const told = ({ samples, seconds }) => {
      element("progress").value = samples / length;
      this.#rtf(seconds, samples);
    };
    const buffers = channels.map((samples) => samples.buffer);
    const made = await page.client.ask("separate", { channels, prompts }, buffers, told);
    if (!made) {
      element("speed").textContent = "";
      return page.say("Stopped.");
    }
    this.#rtf(made.seconds, length);
    made.stems.forEach((stem, at) => this.#show(stem, prompts[at], file.name));
    page.say(`${file.name}: done.`);
  }

  #rtf(seconds, samples) {
    const audio = samples / this.#page.model.rate;
    const rtf = seconds / audio;
    const text = `${audio.toFixed(1)} s of audio in ${seconds.toFixed(1)} s: RTF ${rtf.toFixed(3)}`;
    Object.assign(element("speed"), { textContent: text }).dataset.rtf = rtf;
  }

  #show(stem, prompt, name) {
    const url = URL.createObjectURL(stem);
    this.#urls.push(url);
    const item = put(element("stems"), "li");
    put(item, "span", { textContent: prompt });
    put(item, "audio", { src: url, controls: true, ariaLabel: prompt });
    const download = `${name.replace(/\.[^.]*$/, "")}-${prompt}.wav`;
    put(item, "a", { href: url, download, textContent: "WAV", ariaLabel: `Download ${prompt} as WAV` });
  }
}
