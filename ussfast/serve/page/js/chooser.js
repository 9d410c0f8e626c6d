// Which sounds to take apart: those that the model knows, and those that users showed.
import { call, json } from "./api.js";
import { button, element, fail, put, say, show } from "./dom.js";
import { hint, SETS, title } from "./titles.js";

/** Event "change" when the choice does. */
export class Chooser extends EventTarget {
  #counts = new Map(); // by name, in the order of choice
  #fixed = [];

  constructor(model) {
    super();
    this.model = model;
    this.#fixed = model.prompts.length ? [] : model.labels;
  }

  /** Asks which prompts there are, and shows them. */
  async load() {
    this.known = await json("/v1/prompts");
    for (const name of this.#counts.keys()) if (!this.#has(name)) this.#counts.delete(name);
    if (!this.#counts.size) this.#choose(SETS.map(([, names]) => names).find((names) => names.every(this.#has)) ?? []);
    this.#show();
  }

  #has = (name) => this.known.some((prompt) => prompt.name === name);

  /** Names, repeated as often as they are wanted; empty for a model that has its own sources. */
  get chosen() {
    return [...this.#counts].flatMap(([name, count]) => Array(count).fill(name));
  }

  /** Whether there is something to separate. */
  get ready() {
    return this.#fixed.length > 0 || this.#counts.size > 0;
  }

  /** One more of this name. */
  add(name) {
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
    this.#changed();
  }

  #choose(names) {
    this.#counts = new Map(names.map((name) => [name, 1]));
  }

  #changed() {
    this.#show();
    this.dispatchEvent(new Event("change"));
  }

  #show() {
    const held = document.activeElement?.dataset?.for;
    const classes = this.known.filter(({ kind }) => kind === "class");
    const own = this.known.filter(({ kind }) => kind !== "class");
    show("fixed", this.#fixed.length > 0);
    element("fixed").textContent = `This model always gives: ${this.#fixed.map(title).join(", ")}.`;
    this.#showSets(this.#fixed.length ? [] : SETS.filter(([, names]) => names.every(this.#has)));
    element("known").replaceChildren();
    element("own").replaceChildren();
    for (const { name } of classes) this.#chip(element("known"), name);
    for (const prompt of own) this.#chip(element("own"), prompt.name, prompt);
    show("own", own.length > 0);
    show("examples-open", this.model.can_enroll);
    show("examples-hint", this.model.can_enroll && !own.length);
    // The button that was pressed is a new one now: the keyboard stays where it was.
    if (held) document.querySelector(`[data-for="${CSS.escape(held)}"]`)?.focus();
  }

  #showSets(sets) {
    const place = element("sets");
    place.replaceChildren();
    show("sets", sets.length > 0);
    const now = [...this.#counts.keys()].sort().join();
    for (const [text, names] of sets) {
      const pick = () => (this.#choose(names), this.#changed());
      const pressed = String([...names].sort().join() === now && this.chosen.length === names.length);
      button(place, text, pick, { className: "set", ariaPressed: pressed, data: { for: `set ${text}` } });
    }
  }

  #chip(list, name, own = null) {
    const count = this.#counts.get(name) ?? 0;
    const chip = put(list, "li", { className: count ? "chip on" : "chip", title: hint(name) });
    const text = title(name) + (count > 1 ? ` ×${count}` : "");
    const toggle = () => {
      if (count) this.#counts.delete(name);
      else this.#counts.set(name, 1);
      this.#changed();
    };
    const label = own ? `${text}, ${own.kind}` : text;
    const press = { ariaPressed: String(count > 0), ariaLabel: label, data: { for: `toggle ${name}`, prompt: name } };
    button(chip, text, toggle, press);
    const small = (sign, words, work, kind) => {
      const properties = { className: "small", ariaLabel: words, title: words, data: { for: `${kind} ${name}` } };
      button(chip, sign, work, properties);
    };
    if (count) small("+", `One more ${title(name)}`, () => this.add(name), "more");
    if (own) small("×", `Delete ${name}`, () => this.#remove(name), "delete");
  }

  async #remove(name) {
    if (!confirm(`Delete the sound “${name}”? Its clips go, too.`)) return;
    try {
      await call(`/v1/prompts/${encodeURIComponent(name)}`, { method: "DELETE" });
    } catch (error) {
      if (error.status !== 404) return fail(error);
    }
    this.#counts.delete(name);
    await this.load();
    say(`${name} is deleted.`);
    this.dispatchEvent(new Event("change"));
    element("examples-open").focus();
  }
}
