// What export.json and prompts.json say of a model. Names, rates and shapes come from there and from nowhere else.
import { Problem } from "./problem.js";

export const FORMAT = "ussfast-export";
export const VERSION = 1;

/**
 * The model that the page runs.
 * @param data what is in export.json
 * @param vectors what is in prompts.json: numbers by name
 * @returns name, rate (Hz), hop and latency (samples), vectors (a Map), most (prompts at once), rows (streams at once),
 *   prompts and step (graphs as in export.json), vector (input of prompts), audio and out (input and output of step)
 * @throws Problem
 */
export function readManifest(data, vectors) {
  if (data?.format !== FORMAT || data.version !== VERSION) {
    const found = `${data?.format}, version ${data?.version}`;
    throw new Problem(`model/export.json: this page reads ${FORMAT}, version ${VERSION}, not ${found}`);
  }
  if (data.kind !== "onnx") throw new Problem(`model/: the page runs ONNX, not ${data.kind}: export it with --onnx`);
  const { step, prompts } = data.graphs ?? {};
  if (!step || !prompts) {
    throw new Problem(`model/: ${data.name} has no graph that goes hop by hop: export a causal model with --mode step`);
  }
  const rate = whole(data.sample_rate, "sample_rate");
  const hop = whole(data.hop, "hop");
  const latency = whole(data.latency_samples, "latency_samples");
  if (latency < hop) throw new Problem("model/export.json: latency_samples is less than one hop");
  for (const [name, graph] of Object.entries({ step, prompts })) checkGraph(name, graph);

  const stated = new Set(step.state.flat());
  const asked = new Set(prompts.outputs.map((port) => port.name));
  const audio = only(step.inputs.filter((port) => !stated.has(port.name) && !asked.has(port.name)), "input", "audio");
  const out = only(step.outputs.filter((port) => !stated.has(port.name)), "output", "audio");
  const vector = only(prompts.inputs, "input", "prompts");
  if (audio.shape.at(-1) !== hop || out.shape.at(-1) !== hop) {
    throw new Problem(`model/export.json: the step's audio is not one hop of ${hop} samples`);
  }
  return {
    name: data.name, rate, hop, latency, step, prompts, audio: audio.name, out: out.name, vector: vector.name,
    vectors: readVectors(vectors, vector.shape.at(-1)),
    most: step.dims?.[out.shape[1]]?.[1] ?? 1,
    rows: step.dims?.[audio.shape[0]]?.[1] ?? 1,
  };
}

function whole(value, name) {
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw new Problem(`model/export.json: ${name} must be a whole number, got ${value}`);
}

function checkGraph(name, graph) {
  const listed = [graph.inputs, graph.outputs, graph.state].every(Array.isArray);
  if (typeof graph.file !== "string" || /[/\\]/.test(graph.file) || !listed) {
    throw new Problem(`model/export.json: the graph ${name} is not described as it should be: export the model again`);
  }
}

function only(ports, kind, what) {
  if (ports.length === 1) return ports[0];
  throw new Problem(`model/export.json: one ${kind} for ${what} was expected, there are ${ports.length}`);
}

function readVectors(vectors, size) {
  const entries = Object.entries(vectors ?? {});
  if (!entries.length) throw new Problem("model/prompts.json: there are no prompts in it");
  for (const [name, numbers] of entries) {
    const fine = Array.isArray(numbers) && numbers.length === size && numbers.every(Number.isFinite);
    if (!fine) throw new Problem(`model/prompts.json: ${name} must be ${size} numbers`);
  }
  return new Map(entries.map(([name, numbers]) => [name, Float32Array.from(numbers)]));
}

/** The sizes of a port, its names replaced. @throws Problem for a name without a size */
export function sizes(shape, named) {
  return shape.map((dim) => {
    const size = typeof dim === "number" ? dim : named[dim];
    if (size === undefined) throw new Problem(`model/export.json: nothing says how large ${dim} is`);
    return size;
  });
}
