// One track of a result: solo, mute, gain, download, and its drawing.
import { button, put } from "./dom.js";
import { Wave } from "./waves.js";

const SILENT_DB = -40; // the end of the slider

/** @returns {item, track, wave, update, solo, mute} */
export function trackRow(list, player, track, peak, save) {
  const item = put(list, "li", { className: "track", data: { label: track.label } });
  const head = put(item, "div", { className: "track-head" });
  put(head, "h3", { textContent: track.title });
  const place = put(item, "div", { className: "wave", ariaHidden: "true" });
  const wave = new Wave(place, track.buffer, peak, track.mixture, (seconds) => player.seek(seconds));
  if (track.mixture) {
    item.classList.add("mixture");
    put(head, "p", { className: "quiet", textContent: "what went in; A switches to it and back" });
    const none = () => {};
    return { item, track, wave, update: none, solo: none, mute: none };
  }
  const tools = put(head, "div", { className: "tools" });
  const solo = () => player.set(track, { solo: !track.solo });
  const mute = () => player.set(track, { mute: !track.mute });
  const soloButton = button(tools, "Solo", solo, { ariaLabel: `Solo ${track.title}`, className: "toggle" });
  const muteButton = button(tools, "Mute", mute, { ariaLabel: `Mute ${track.title}`, className: "toggle" });
  const label = put(tools, "label", { className: "gain" });
  const range = { type: "range", min: SILENT_DB, max: 12, step: 0.5, value: 0, ariaLabel: `Gain of ${track.title}` };
  const slider = put(label, "input", range);
  const figure = put(label, "output", { textContent: "0 dB" });
  slider.oninput = () => player.set(track, { gain: gainOf(Number(slider.value)) });
  slider.ondblclick = () => ((slider.value = 0), slider.oninput());
  button(tools, "Download", save, { ariaLabel: `Download ${track.title}`, className: "download" });
  const update = () => {
    soloButton.ariaPressed = String(track.solo);
    muteButton.ariaPressed = String(track.mute);
    const db = Number(slider.value);
    figure.textContent = track.gain ? `${db > 0 ? "+" : ""}${db} dB` : "off";
    slider.setAttribute("aria-valuetext", track.gain ? `${db} decibels` : "off");
    const others = player.tracks.some(({ solo: alone }) => alone) && !track.solo;
    item.classList.toggle("silent", track.mute || others || !track.gain);
  };
  return {
    item, track, wave, update, mute,
    solo: () => (solo(), soloButton.focus()),
  };
}

/** Decibels as a factor; the lowest is silence. */
export const gainOf = (db) => (db <= SILENT_DB ? 0 : 10 ** (db / 20));
