// The keyboard while a result is open.

const SMALL_S = 1;
const LARGE_S = 5;

/** Keys that an element needs for itself. */
function taken(element, key) {
  if (element.closest("dialog")) return true;
  if (element.matches("input:not([type=range]):not([type=radio]):not([type=checkbox]), select, textarea")) return true;
  if (element.matches("input[type=range], input[type=radio]") && key.startsWith("Arrow")) return true;
  return key === " " && element.matches("button, a, summary, audio, input[type=radio], input[type=checkbox]");
}

/** results: with player, solo and muteFocused. */
export function useKeys(results) {
  addEventListener("keydown", (event) => {
    const { player } = results;
    if (!player || event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    if (document.getElementById("files").hidden || taken(event.target, event.key)) return;
    const step = event.shiftKey ? LARGE_S : SMALL_S;
    const work = {
      " ": () => player.toggle(),
      ArrowLeft: () => player.seek(player.position - step),
      ArrowRight: () => player.seek(player.position + step),
      Home: () => player.seek(0),
      a: () => player.tracks[0].mixture && player.compare(),
      m: () => results.muteFocused(),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (work) work();
    else if (/^[1-9]$/.test(event.key)) results.solo(Number(event.key));
    else return;
    event.preventDefault();
  });
}
