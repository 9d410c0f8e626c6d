// The field that asks for the server's token.
import { element } from "./dom.js";

/** Opens it; wrong: one was shown already. Resolves with a token, or null if it is closed without. */
let asking = null;

export function askForToken(wrong) {
  asking ??= new Promise((done) => {
    const dialog = element("token-dialog");
    const field = element("token");
    field.value = "";
    element("token-wrong").hidden = !wrong;
    dialog.onclose = () => {
      asking = null;
      done(dialog.returnValue === "ok" && field.value.trim() ? field.value.trim() : null);
    };
    dialog.returnValue = "";
    element("token-form").onsubmit = (event) => {
      event.preventDefault();
      dialog.close("ok");
    };
    dialog.showModal();
    field.focus();
  });
  return asking;
}
