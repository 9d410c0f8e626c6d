// Elements of the page, found and made.

/** The element with this id. */
export const element = (id) => document.getElementById(id);

/** A new element with these properties, as the last one of its parent where there is one. */
export function put(parent, name, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(name), rest);
  Object.assign(made.dataset, data);
  made.append(...children);
  parent?.append(made);
  return made;
}

/** A button with text, or with a sign that a label explains. */
export function button(parent, text, onclick, properties = {}) {
  return put(parent, "button", { type: "button", textContent: text, onclick, ...properties });
}

export const show = (id, shown) => (element(id).hidden = !shown);

const SAID_MS = 8000;
let forgetting = null;

/** Says something to everybody, screen readers included; it is shown for a while. */
export function say(text) {
  clearTimeout(forgetting);
  element("status").textContent = text;
  forgetting = setTimeout(() => (element("status").textContent = ""), SAID_MS);
}

/** Shows an error at the top; null: there is none any more. */
export function fail(error) {
  const place = element("problem");
  element("problem-text").textContent = error === null ? "" : sentence(error);
  place.hidden = error === null;
  if (error !== null) place.scrollIntoView({ block: "nearest" });
}

/** What an error says, as a sentence. */
export function sentence(error) {
  const text = String(error?.message || error || "Something went wrong.").trim();
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

/** 75.4 as "1:15.4"; without tenths as "1:15". */
export function clock(seconds, tenths = true) {
  const all = Math.floor(Math.max(0, seconds) * 10 + 1e-6) / 10;
  const whole = Math.floor(all);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const rest = tenths ? `.${Math.round((all - whole) * 10)}` : "";
  const two = (number) => String(number).padStart(2, "0");
  return (parts[0] ? `${parts[0]}:${two(parts[1])}` : `${parts[1]}`) + `:${two(parts[2])}${rest}`;
}

/** How long something is, in words. */
export function duration(seconds) {
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  return `${clock(seconds, false)} min`;
}

/** 0.0321 as "32 ms". */
export const milliseconds = (seconds) => `${Math.round(seconds * 1000)} ms`;

/** Files that are dropped on an element, or chosen by an input. */
export function takesFiles(zone, input, taken) {
  input.onchange = () => {
    const files = [...input.files];
    input.value = ""; // the same file again is a change, too
    if (files.length) taken(files);
  };
  const over = (event, on) => {
    event.preventDefault();
    zone.classList.toggle("over", on);
  };
  zone.ondragover = (event) => over(event, true);
  zone.ondragleave = (event) => zone.contains(event.relatedTarget) || over(event, false);
  zone.ondrop = (event) => {
    over(event, false);
    const files = [...event.dataTransfer.files];
    if (files.length) taken(files);
  };
}
