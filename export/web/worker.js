// The model, away from the page: opens the export beside it, separates recordings, answers hops of a live stream.
import { Pieces, separate } from "./hops.js";
import { readManifest } from "./manifest.js";
import { Model } from "./model.js";
import { Problem, sentence } from "./problem.js";
import { wavHeader } from "./wav.js";

let model = null;
let stopped = false;
let live = null;

const kinds = {
  /** Opens model/. @returns {name, rate, hop, latency, prompts, most, threads} */
  async open() {
    const read = async (name) => JSON.parse(new TextDecoder().decode(await fetched(`model/${name}`)));
    const manifest = readManifest(await json(read, "export.json"), await json(read, "prompts.json"));
    const ort = await runtime();
    const files = {};
    for (const name of ["prompts", "step"]) files[name] = await graph(manifest[name]);
    model = await Model.open(ort, manifest, files);
    const { name, rate, hop, latency, vectors, most } = manifest;
    return { name, rate, hop, latency, most, prompts: [...vectors.keys()], threads: ort.env.wasm.numThreads };
  },

  /** Separates channels [Float32Array]. @returns {stems: [Blob], WAVs, seconds: it took}; null if it was stopped */
  async separate({ channels, prompts }, tell) {
    stopped = false;
    const { rate, hop, latency, rows } = model.manifest;
    const header = wavHeader(rate, channels.length, channels[0].length);
    const pieces = prompts.map(() => new Pieces());
    const began = performance.now();
    const form = { hop, latency, rows, sources: prompts.length };
    const taken = (source, samples) => pieces[source].add(samples);
    try {
      await separate(channels, form, (count) => model.stream(prompts, count), taken, async (samples) => {
        tell({ samples, seconds: since(began) });
        await breath();
        if (stopped) throw new Stopped();
      });
    } catch (error) {
      if (error instanceof Stopped) return null;
      throw error;
    }
    return { stems: pieces.map((piece) => piece.file(header)), seconds: since(began) };
  },

  async stop() {
    stopped = true;
  },

  /** Hops that come through a port are answered there, until `leave`. Tells {rtf, slowest} once a second. */
  async live({ prompts, port }, tell) {
    // First of all, so that a `leave` that follows at once finds it.
    let fail;
    const ended = new Promise((end, refuse) => ([live, fail] = [end, refuse]));
    const stream = await model.stream(prompts);
    const second = model.manifest.rate / model.manifest.hop;
    let [turn, times] = [Promise.resolve(), []];
    port.onmessage = ({ data }) => {
      turn = turn.then(async () => {
        const began = performance.now();
        const out = Float32Array.from(await stream.step(data));
        port.postMessage(out, [out.buffer]);
        times.push(since(began) * second);
        if (times.length < second) return;
        tell({ rtf: times.reduce((a, b) => a + b) / times.length, slowest: Math.max(...times) });
        times = [];
      });
      turn.catch(fail);
    };
    try {
      await ended;
    } finally {
      port.close();
    }
  },

  async leave() {
    live?.();
    live = null;
  },
};

class Stopped extends Error {}

function since(began) {
  return (performance.now() - began) / 1000;
}

/** Lets messages in: promises alone would not. */
function breath() {
  return new Promise((resolve) => setTimeout(resolve));
}

async function fetched(path) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-cache" });
  } catch {
    throw new Problem(`${path} cannot be read: is the server still there?`);
  }
  if (!answer.ok) throw new Problem(`${path} is missing beside the page (${answer.status}): make web puts it there.`);
  return answer.arrayBuffer();
}

async function json(read, name) {
  try {
    return await read(name);
  } catch (error) {
    if (error instanceof SyntaxError) throw new Problem(`model/${name} is damaged: export the model again.`);
    throw error;
  }
}

async function graph({ file, sha256 }) {
  const bytes = new Uint8Array(await fetched(`model/${file}`));
  // Browsers compute hashes for pages of https and localhost only; elsewhere onnxruntime has to find what is damaged.
  if (crypto.subtle) {
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const found = [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== sha256) throw new Problem(`model/${file} is not what export.json means: export the model again.`);
  }
  return bytes;
}

/** ?threads=N in the page's address: steps are so small that more than one gains nothing, and costs much. */
function threads() {
  const asked = Number(new URLSearchParams(self.location.search).get("threads") ?? 1);
  const most = navigator.hardwareConcurrency || 1;
  if (!Number.isInteger(asked) || asked < 1 || asked > most) {
    throw new Problem(`threads must be a whole number from 1 to ${most}.`);
  }
  if (asked > 1 && !self.crossOriginIsolated) {
    throw new Problem("Browsers give threads to isolated pages only, which takes two headers: see README.md.");
  }
  return asked;
}

async function runtime() {
  const folder = new URL("ort/", self.location.href).href;
  let ort;
  try {
    ort = await import(`${folder}ort.wasm.min.mjs`);
  } catch {
    throw new Problem("ort/ort.wasm.min.mjs is missing beside the page: make web puts it there.");
  }
  ort.env.wasm.wasmPaths = folder;
  ort.env.wasm.numThreads = threads();
  return ort;
}

self.onmessage = async ({ data: { id, kind, ...data } }) => {
  try {
    self.postMessage({ id, answer: await kinds[kind](data, (told) => self.postMessage({ id, told })) });
  } catch (error) {
    self.postMessage({ id, problem: sentence(error) });
  }
};
