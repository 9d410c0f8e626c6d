// A recording: chosen, sent, separated.
import { blob, upload } from "./api.js";
import { duration, element, fail, put, say, show, takesFiles } from "./dom.js";
import { cancel, follow, progressOf } from "./jobs.js";
import { recordButton } from "./microphone.js";
import { Results } from "./results.js";
import { titleOfStem } from "./titles.js";

export class Files {
  #file = null;
  #running = null;
  results = new Results();

  constructor(chooser) {
    this.chooser = chooser;
    takesFiles(element("drop"), element("file"), ([file]) => this.take(file));
    element("separate").onclick = () => this.separate();
    element("cancel").onclick = () => this.#abort();
    element("example").onclick = () => this.#example();
    const name = () => `recording ${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.wav`;
    recordButton(element("record"), name, ([file]) => this.take(file), fail);
    chooser.addEventListener("change", () => this.#allow());
    this.#allow();
  }

  /** The file that is to be separated. */
  take(file) {
    this.#file = file;
    fail(null);
    element("chosen").textContent = `${file.name}, ${size(file.size)}`;
    show("chosen", true);
    element("drop").classList.add("filled");
    element("drop-title").textContent = "Another one?";
    this.#allow();
    say(`${file.name} is chosen.`);
  }

  async #example() {
    try {
      const audio = await blob("/page/example.flac");
      this.take(new File([audio], "voice in the wind.flac", { type: "audio/flac" }));
      element("separate").focus();
    } catch (error) {
      fail(error);
    }
  }

  #allow() {
    const working = this.#running !== null;
    element("separate").disabled = working || !this.#file || !this.chooser.ready;
    element("separate-hint").textContent = working
      ? ""
      : !this.#file
        ? "Choose a recording first."
        : !this.chooser.ready
          ? "Choose at least one sound."
          : "";
  }

  async separate() {
    const file = this.#file;
    fail(null);
    this.#running = new AbortController();
    this.#allow();
    show("work", true);
    element("cancel").focus();
    try {
      await this.#run(file, this.#running.signal);
    } catch (error) {
      if (error.name === "AbortError") say("Cancelled.");
      else fail(error);
    } finally {
      [this.#running, this.job] = [null, null];
      show("work", false);
      this.#allow();
    }
  }

  async #run(file, signal) {
    await this.results.close();
    const form = new FormData();
    form.append("file", file, file.name);
    for (const prompt of this.chooser.chosen) form.append("prompts", prompt);
    if (element("residual").checked) form.append("residual", "true");
    form.append("format", element("format").value);
    this.#tell(0, "Sending the recording");
    const told = (sent, all) => this.#tell(sent / all, "Sending the recording");
    this.job = await upload("/v1/audio/separations", form, told, signal);
    const done = await follow(this.job, (job) => this.#progress(job), signal);
    this.#tell(1, "Fetching the tracks");
    await this.results.open(done, file);
    element("warnings").replaceChildren(...done.warnings.map((text) => put(null, "li", { textContent: text })));
    const names = done.outputs.map(({ label }) => titleOfStem(label, done.prompts)).join(", ");
    say(`Done: ${names}; ${duration(done.input.seconds)} of audio.`);
    element("result").scrollIntoView({ block: "start" });
    element("play").focus({ preventScroll: true });
  }

  #progress(job) {
    const { share, text } = progressOf(job);
    this.#tell(share, text);
  }

  #tell(share, text) {
    const bar = element("progress");
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
    element("progress-text").textContent = text;
  }

  #abort() {
    if (this.job) cancel(this.job).catch(fail);
    this.#running?.abort();
  }
}

const size = (bytes) => (bytes > 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`);
