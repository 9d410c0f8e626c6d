// The page: asks the server what it can, then shows it.
import { json, onTokenNeeded } from "./api.js";
import { Chooser } from "./chooser.js";
import { element, fail, say, show } from "./dom.js";
import { Examples } from "./examples.js";
import { Files } from "./files.js";
import { useKeys } from "./keys.js";
import { Live } from "./live.js";
import { askForToken } from "./token.js";

const VIEWS = ["files", "live"];
const AGAIN_MS = 1500;

/** What is on the page; empty until the server was asked. */
export const app = {};

function view() {
  const chosen = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : VIEWS[0];
  for (const name of VIEWS) {
    show(name, name === chosen);
    show(`${name}-go`, name === chosen);
    const link = element(`to-${name}`);
    if (name === chosen) link.ariaCurrent = "page";
    else link.removeAttribute("aria-current");
  }
  if (chosen !== "live" && app.live?.on) app.live.stop();
  show("result-room", chosen === "files");
  show("live-room", chosen === "live");
}

/** The model; a server that starts is asked again. */
async function model() {
  for (;;) {
    try {
      return await json("/v1/model");
    } catch (error) {
      if (error.status !== 503) throw error;
      say("The server is starting.");
      await new Promise((done) => setTimeout(done, AGAIN_MS));
    }
  }
}

async function begin() {
  onTokenNeeded(askForToken);
  addEventListener("hashchange", view);
  view();
  element("problem-close").onclick = () => fail(null);
  element("again").onclick = () => location.reload();
  try {
    app.model = await model();
    app.chooser = new Chooser(app.model);
    await app.chooser.load();
  } catch (error) {
    say("");
    show("again", true);
    return fail(error);
  }
  app.files = new Files(app.chooser);
  app.live = new Live(app.model, app.chooser);
  app.examples = new Examples(app.model.limits, async (name) => {
    await app.chooser.load();
    if (!app.chooser.chosen.includes(name)) app.chooser.add(name);
  });
  useKeys(app.files.results);
  element("model").textContent = `${app.model.name}, ${app.model.sample_rate / 1000} kHz, ussfast ${app.model.version}`;
  show("loading", false);
  show("work-room", true);
  say("");
}

begin();
