// "Sounds like this": a name and a few clips become a prompt.
import { upload } from "./api.js";
import { button, element, put, say, sentence, takesFiles } from "./dom.js";
import { cancel, follow, progressOf } from "./jobs.js";
import { recordButton } from "./microphone.js";

export class Examples {
  #clips = [];
  #running = null;
  #recorded = 0;

  /** made: called with the name of a new prompt. */
  constructor(limits, made) {
    [this.limits, this.made] = [limits, made];
    this.dialog = element("examples");
    element("examples-open").onclick = () => this.open();
    element("examples-close").onclick = () => this.dialog.close();
    this.dialog.onclose = () => this.#abort();
    element("examples-form").onsubmit = (event) => {
      event.preventDefault();
      this.#send();
    };
    element("examples-cancel").onclick = () => this.#abort();
    element("tune").onchange = ({ target }) => (element("minutes-row").hidden = !target.checked);
    takesFiles(element("clips-drop"), element("clips"), (files) => this.#add(files));
    const name = () => `clip ${++this.#recorded}.wav`;
    recordButton(element("clips-record"), name, (files) => this.#add(files), (error) => this.#fail(error));
  }

  open() {
    this.#clips = [];
    element("examples-name").value = "";
    this.#fail(null);
    this.#show();
    this.dialog.showModal();
    element("examples-name").focus();
  }

  #add(files) {
    this.#clips.push(...files);
    this.#fail(null);
    this.#show();
  }

  #show() {
    const list = element("clips-list");
    list.replaceChildren();
    for (const clip of this.#clips) {
      const item = put(list, "li");
      const url = URL.createObjectURL(clip);
      put(item, "span", { textContent: clip.name, className: "clip-name" });
      put(item, "audio", { controls: true, src: url, ariaLabel: `Listen to ${clip.name}` });
      const remove = () => {
        URL.revokeObjectURL(url);
        this.#clips = this.#clips.filter((other) => other !== clip);
        this.#show();
        element("clips").focus();
      };
      button(item, "×", remove, { className: "small", ariaLabel: `Remove ${clip.name}` });
    }
  }

  #fail(error) {
    const place = element("examples-problem");
    place.textContent = error === null ? "" : sentence(error);
    place.hidden = error === null;
  }

  async #send() {
    const name = element("examples-name").value.trim();
    if (!name) return this.#fail("Give the sound a name.");
    if (!this.#clips.length) return this.#fail("Add at least one clip of the sound.");
    this.#fail(null);
    const form = new FormData();
    form.append("name", name);
    for (const clip of this.#clips) form.append("clips", clip, clip.name);
    if (element("tune").checked) {
      form.append("tune", "true");
      form.append("minutes", element("minutes").value);
    }
    this.#running = new AbortController();
    this.#busy(true);
    this.#tell(null, "Sending the clips");
    try {
      const { signal } = this.#running;
      this.job = await upload("/v1/prompts", form, (sent, all) => this.#tell(sent / all, "Sending the clips"), signal);
      await follow(this.job, (job) => this.#progress(job), signal);
      this.#running = null;
      this.dialog.close();
      say(`${name} is ready.`);
      await this.made(name);
    } catch (error) {
      if (error.name === "AbortError") say("Cancelled.");
      else this.#fail(error);
    } finally {
      [this.#running, this.job] = [null, null];
      this.#busy(false);
    }
  }

  #progress(job) {
    const { share, text } = progressOf(job);
    this.#tell(share, text);
  }

  #tell(share, text) {
    const bar = element("examples-bar");
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
    element("examples-progress").textContent = text;
  }

  #busy(working) {
    element("examples-work").hidden = !working;
    element("examples-send").disabled = working;
  }

  #abort() {
    if (this.job) cancel(this.job).catch(() => {});
    this.#running?.abort();
  }
}
