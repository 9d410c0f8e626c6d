// Elements of the page.

export function element(id) {
  return document.getElementById(id);
}

/** A new element at the end of another. */
export function put(into, tag, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  into.append(made);
  return made;
}

export function hide(id, hidden) {
  element(id).hidden = hidden;
}

export function milliseconds(seconds) {
  return `${Math.round(1000 * seconds)} ms`;
}
