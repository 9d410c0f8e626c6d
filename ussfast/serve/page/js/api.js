// The server's HTTP: token, errors as sentences, uploads that tell how far they are, events of jobs.

const KEY = "ussfast-token"; // kept until the browser's tab is closed
let askForToken = null;

/** What the server, or the way to it, has against a request. status: of HTTP, 0 where nobody answered. */
export class Problem extends Error {
  constructor(detail, status = 0, retryAfter = null) {
    super(detail);
    [this.status, this.retryAfter] = [status, retryAfter];
  }
}

const UNREACHED = "The server does not answer: is it still running?";

/** ask: brings a token, or null if nobody gives one; its argument says whether there was a wrong one. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

const token = () => sessionStorage.getItem(KEY);
const headersOfToken = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

/** Names that a WebSocket shows instead of headers, which browsers do not give it. */
export function protocols() {
  if (!token()) return ["ussfast.v1"];
  const bytes = new TextEncoder().encode(token());
  const text = btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return ["ussfast.v1", `bearer.${text}`];
}

/** The problem that an answer tells of. */
async function problemOf(status, body, retryAfter) {
  const wait = Number(retryAfter) || null;
  try {
    return new Problem(JSON.parse(body).detail, status, wait);
  } catch {
    return new Problem(`The server answered ${status} without saying why.`, status, wait);
  }
}

/** Does something that may need a token, again with each that is given. */
async function admitted(attempt) {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (error.status !== 401 || !askForToken) throw error;
      const given = await askForToken(token() !== null);
      if (given === null) throw error;
      sessionStorage.setItem(KEY, given);
    }
  }
}

/**
 * Asks the server.
 * @returns Response, of a success
 * @throws Problem; an AbortError if the signal says so
 */
export function call(path, { headers = {}, ...options } = {}) {
  return admitted(async () => {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers: { ...headers, ...headersOfToken() }, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(UNREACHED);
    }
    if (answer.ok) return answer;
    throw await problemOf(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  });
}

export const json = async (path, options) => (await call(path, options)).json();
export const blob = async (path, options) => (await call(path, options)).blob();

/**
 * Sends a form; fetch could not tell how far it is.
 * @param told called with bytes sent and bytes in all
 * @returns what the server answers, from JSON
 */
export function upload(path, form, told, signal) {
  return admitted(
    () =>
      new Promise((done, failed) => {
        const request = new XMLHttpRequest();
        const abort = () => request.abort();
        request.open("POST", path);
        const headers = { Prefer: "respond-async", Accept: "application/json", ...headersOfToken() };
        for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
        request.upload.onprogress = ({ loaded, total }) => told(loaded, total);
        request.onabort = () => failed(new DOMException("cancelled", "AbortError"));
        request.onerror = () => failed(new Problem(UNREACHED));
        request.onload = async () => {
          if (request.status < 300) return done(JSON.parse(request.responseText));
          failed(await problemOf(request.status, request.responseText, request.getResponseHeader("Retry-After")));
        };
        request.onloadend = () => signal?.removeEventListener("abort", abort);
        signal?.addEventListener("abort", abort);
        if (signal?.aborted) return failed(new DOMException("cancelled", "AbortError"));
        request.send(form);
      }),
  );
}

/** Server-sent events of an address as {event, data}; EventSource has no headers for the token. */
export async function* events(path, signal) {
  const answer = await call(path, { headers: { Accept: "text/event-stream" }, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      held += value.replaceAll("\r", "");
      let end;
      while ((end = held.indexOf("\n\n")) >= 0) {
        const found = parsed(held.slice(0, end));
        held = held.slice(end + 2);
        if (found) yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** One block of lines; null for a comment. */
export function parsed(block) {
  const [data, found] = [[], { event: "message" }];
  for (const line of block.split("\n")) {
    const [name, value] = [line.split(":", 1)[0], line.slice(line.indexOf(":") + 1).replace(/^ /, "")];
    if (name === "event") found.event = value;
    if (name === "data") data.push(value);
  }
  return data.length ? { ...found, data: data.join("\n") } : null;
}
