// Files for the user's disk.
import { put } from "./dom.js";

const KEPT_MS = 60_000; // browsers read it after the click

/** Hands a Blob over under this name. */
export function download(content, name) {
  const url = URL.createObjectURL(content);
  const link = put(document.body, "a", { href: url, download: name, hidden: true });
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), KEPT_MS);
}

/** A name without its ending, fit for files. */
export const stemOf = (name) => name.replace(/\.[^.]*$/, "").replace(/[\\/:*?"<>|\p{Cc}]/gu, "_") || "recording";
