// How loud each stem of a live stream is, and how loud it is by itself.
import { button, put } from "./dom.js";
import { titleOfStem } from "./titles.js";

const FULL = 0.3; // of the meters: a loud voice has a root of mean squares of about a third

export class Mixer {
  #rows = new Map(); // by label
  #kept = new Map(); // what was set, for when a label comes back

  /** changed: called with {label: gain}. */
  constructor(list, changed) {
    [this.list, this.changed] = [list, changed];
  }

  /** Rows for these labels; those that stay are as they were. */
  show(labels, prompts) {
    for (const [label, row] of this.#rows) if (!labels.includes(label)) row.item.remove(), this.#rows.delete(label);
    for (const label of labels) if (!this.#rows.has(label)) this.#rows.set(label, this.#row(label, prompts));
    for (const label of labels) this.list.append(this.#rows.get(label).item);
    this.#tell();
  }

  clear() {
    for (const { item } of this.#rows.values()) item.remove();
    this.#rows.clear();
    this.#kept.clear();
  }

  levels(levels) {
    for (const [label, { meter }] of this.#rows) meter.value = levels[label] ?? 0;
  }

  #row(label, prompts) {
    const name = titleOfStem(label, prompts);
    // At first only one is heard: all together are what went in.
    const set = this.#kept.get(label) ?? { gain: 1, on: this.#kept.size === 0 };
    this.#kept.set(label, set);
    const item = put(this.list, "li", { className: "mix-row", data: { label } });
    put(item, "span", { textContent: name, className: "mix-name" });
    const press = () => {
      set.on = !set.on;
      on.ariaPressed = String(set.on);
      this.#tell();
    };
    const pressed = { ariaPressed: String(set.on), ariaLabel: `Hear ${name}`, className: "toggle" };
    const on = button(item, "Hear", press, pressed);
    const range = { type: "range", min: 0, max: 2, step: 0.01, value: set.gain, ariaLabel: `Gain of ${name}` };
    const slider = put(item, "input", range);
    slider.oninput = () => ((set.gain = Number(slider.value)), this.#tell());
    const meter = put(item, "meter", { max: FULL, value: 0, ariaLabel: `Level of ${name}` });
    return { item, meter };
  }

  #tell() {
    const of = (label) => (this.#kept.get(label).on ? this.#kept.get(label).gain : 0);
    this.changed(Object.fromEntries([...this.#rows.keys()].map((label) => [label, of(label)])));
  }
}
