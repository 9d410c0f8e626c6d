// A live stream of the server: it goes on after a connection was lost, without a sample missing.
import { json, Problem, protocols } from "./api.js";
import { pieceOf, Sent } from "./pieces.js";

const KEPT_S = 60; // of input, where the server saves no snapshots
const ACK_MS = 500;
const WAITS_MS = [250, 500, 1000, 2000, 4000];
const CODES = {
  1008: "The server refuses this stream: it is against its limits.",
  1011: "The server had an error of its own.",
  1013: "The connection is too slow for what comes back.",
  4000: "The server heard nothing for too long.",
};
const RESUMABLE = [1001, 1006, 1012, 1013];

/**
 * told: called with the name of what happened and its data:
 * "state" (connecting, running, waiting, ended), "started", "labels", "piece", "prompts", "swapped", "saved",
 * "draining", "restarted" (the stream could not be gone on with: a new one), "problem".
 */
export class Stream {
  #socket = null;
  #labels = new Map();
  #tries = 0;
  #refusals = 0; // of a server that answers other questions
  #over = false;
  #acked = 0;
  #timer = null;
  received = 0;

  constructor(rate, prompts, told) {
    [this.rate, this.prompts, this.told] = [rate, prompts, told];
    this.sent = new Sent(KEPT_S * rate);
  }

  /** @throws Problem of what the server has against it, as plain HTTP says it: browsers hide why an upgrade failed */
  async start() {
    await json(`/v1/streams?${this.#query()}`);
    this.#connect();
    this.#timer = setInterval(() => this.#ack(), ACK_MS);
  }

  #query() {
    const settings = { sample_rate: this.rate, channels: 1, format: "f32le", resumable: true };
    return new URLSearchParams({ ...settings, prompts: this.prompts.join(",") });
  }

  #connect() {
    const path = this.id ? `/v1/streams/${this.id}?received=${this.received}` : `/v1/streams?${this.#query()}`;
    const address = new URL(path, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.told("state", this.id ? "waiting" : "connecting");
    const socket = (this.#socket = new WebSocket(address, protocols()));
    socket.binaryType = "arraybuffer";
    this.ready = false;
    socket.onmessage = ({ data }) => this.#socket === socket && this.#receive(data);
    socket.onclose = ({ code }) => this.#socket === socket && this.#lost(code);
  }

  #receive(data) {
    if (typeof data !== "string") return this.#piece(data);
    const message = JSON.parse(data);
    const work = {
      started: () => this.#begun(message, 0),
      resumed: () => this.#begun(message, message.next_input),
      labels: () => this.#name(message),
      prompts: () => (this.sent.answered(), this.told("prompts", message)),
      saved: () => (this.sent.forget(message.input), this.told("saved", message)),
      ended: () => this.told("ended", message),
      error: () => this.#end(new Problem(message.detail)),
    }[message.type];
    if (work) work();
    else this.told(message.type, message);
  }

  #begun(message, from) {
    this.id = message.stream;
    this.#tries = this.#refusals = 0;
    this.#name(message);
    const again = this.sent.from(from);
    if (again === null) {
      this.#forget();
      this.#socket.close();
      return this.#connect();
    }
    this.ready = true;
    for (const entry of again) this.#socket.send(entry.prompts ? promptsMessage(entry.prompts) : entry);
    this.told(message.type, message);
    this.told("state", "running");
  }

  /** What the server gave up, or needs more of than was kept: the next stream begins with what comes now. */
  #forget() {
    this.id = null;
    this.sent = new Sent(KEPT_S * this.rate);
    this.#acked = this.received = this.#refusals = 0;
    this.#labels.clear();
    this.told("restarted");
  }

  #name({ labels_id: id, labels }) {
    this.#labels.set(id, labels);
    this.told("labels", labels);
  }

  #piece(bytes) {
    const piece = pieceOf(bytes);
    if (!piece) return this.#end(new Problem("The server sent a piece that is none: is it of another version?"));
    // After a resumption the server may say again what was heard already.
    const known = Math.max(0, this.received - piece.first);
    if (known >= piece.frames && piece.frames) return;
    if (known) piece.rows = piece.rows.map((row) => row.subarray(known));
    [piece.first, piece.frames] = [piece.first + known, piece.frames - known];
    this.received = piece.first + piece.frames;
    this.told("piece", { ...piece, labels: this.#labels.get(piece.labelsId) ?? [] });
  }

  /** Samples of the microphone, in order; kept while there is no connection. */
  push(samples) {
    if (this.#over) return;
    this.sent.samples(samples);
    if (this.ready) this.#socket.send(samples);
  }

  /** Other prompts, from what is pushed next. */
  change(prompts) {
    this.prompts = prompts;
    if (!this.id) return;
    this.sent.prompts(prompts);
    if (this.ready) this.#socket.send(promptsMessage(prompts));
  }

  #ack() {
    if (!this.ready || this.received === this.#acked) return;
    this.#acked = this.received;
    this.#socket.send(JSON.stringify({ type: "ack", received: this.received }));
  }

  async #lost(code) {
    this.ready = false;
    if (this.#over) return this.told("state", "ended");
    if (code === 1000) return this.#end(null);
    if (!RESUMABLE.includes(code)) return this.#end(new Problem(CODES[code] ?? `The connection was closed (${code}).`));
    this.told("state", "waiting");
    await new Promise((done) => setTimeout(done, WAITS_MS[Math.min(this.#tries++, WAITS_MS.length - 1)]));
    if (this.#over) return;
    // Only a question by HTTP tells why an upgrade fails, and whether there is a server.
    try {
      if (this.#tries > 1) await this.#asks();
    } catch (error) {
      if (error.status && ![429, 503].includes(error.status)) return this.#end(error);
      return this.#lost(1006);
    }
    this.#connect();
  }

  async #asks() {
    await json(`/v1/streams?${this.#query()}`);
    // It answers, and yet does not go on with it, several times: the stream is gone.
    if (++this.#refusals > 2 && this.id) this.#forget();
  }

  #end(problem) {
    this.close();
    this.told("state", "ended");
    if (problem) this.told("problem", problem);
  }

  /** Asks for what is still to come; "ended" follows. */
  finish() {
    if (this.ready) this.#socket.send(JSON.stringify({ type: "end" }));
  }

  /** Ends it at once. */
  close() {
    this.#over = true;
    this.ready = false;
    clearInterval(this.#timer);
    this.#socket?.close();
  }
}

const promptsMessage = (prompts) => JSON.stringify({ type: "prompts", prompts });
