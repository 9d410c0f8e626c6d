// An exported model in onnxruntime-web. The runtime is an argument, so that tests can bring one of their own.
import { sizes } from "./manifest.js";
import { Problem } from "./problem.js";

export class Model {
  #ort;
  #prompts;
  #step;

  constructor(ort, manifest, prompts, step) {
    [this.#ort, this.manifest, this.#prompts, this.#step] = [ort, manifest, prompts, step];
  }

  /**
   * @param ort onnxruntime-web
   * @param manifest of readManifest
   * @param files bytes of the graphs: {prompts, step}
   * @throws Problem for bytes that are no graph, or another than the manifest says
   */
  static async open(ort, manifest, files) {
    const sessions = [];
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    for (const name of ["prompts", "step"]) {
      const graph = manifest[name];
      try {
        sessions.push(await ort.InferenceSession.create(files[name], options));
      } catch (error) {
        throw new Problem(`model/${graph.file} cannot be opened: export the model again (${firstLine(error)})`);
      }
      const missing = graph.inputs.find((port) => !sessions.at(-1).inputNames.includes(port.name));
      if (missing) throw new Problem(`model/${graph.file} has no input ${missing.name}: export the model again`);
    }
    return new Model(ort, manifest, ...sessions);
  }

  /**
   * A stream from its beginning.
   * @param names of prompts, one source each
   * @param rows streams beside each other, such as the channels of a recording
   * @throws Problem for no prompts, unknown ones, or more than the graph takes
   */
  async stream(names, rows = 1) {
    const { manifest } = this;
    if (!names.length) throw new Problem("Choose at least one sound.");
    if (names.length > manifest.most) throw new Problem(`At most ${manifest.most} sounds at once, please.`);
    const unknown = names.find((name) => !manifest.vectors.has(name));
    if (unknown !== undefined) throw new Problem(`The model has no sound ${unknown}.`);
    const size = manifest.vectors.get(names[0]).length;
    const numbers = new Float32Array(rows * names.length * size);
    const row = (at) => manifest.vectors.get(names[at % names.length]);
    for (let at = 0; at < rows * names.length; at++) numbers.set(row(at), at * size);
    const vectors = new this.#ort.Tensor("float32", numbers, [rows, names.length, size]);
    const asked = await this.#prompts.run({ [manifest.vector]: vectors });
    return new Stream(this.#ort, manifest, this.#step, asked, names.length, rows);
  }
}

/** Audio hop by hop; what the model remembers goes from step to step. */
export class Stream {
  #ort;
  #session;
  #fixed;
  #state;

  constructor(ort, manifest, session, fixed, sources, rows) {
    [this.#ort, this.manifest, this.#session, this.#fixed] = [ort, manifest, session, fixed];
    [this.sources, this.rows] = [sources, rows];
    const { step, audio, out } = manifest;
    const port = (name) => [...step.inputs, ...step.outputs].find((found) => found.name === name);
    const named = { [port(audio).shape[0]]: rows, [port(out).shape[1]]: sources };
    this.#state = {};
    for (const [name] of step.state) {
      const shape = sizes(port(name).shape, named);
      this.#state[name] = new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
    }
  }

  /**
   * @param audio Float32Array [rows * hop]
   * @returns Float32Array [rows * sources * hop]: what came in latency - hop samples earlier, separated
   */
  async step(audio) {
    const { step, audio: input, out, hop } = this.manifest;
    const feeds = { [input]: new this.#ort.Tensor("float32", audio, [this.rows, hop]), ...this.#state };
    for (const port of step.inputs) if (!(port.name in feeds)) feeds[port.name] = this.#fixed[port.name];
    const found = await this.#session.run(feeds);
    for (const [before, after] of step.state) this.#state[before] = found[after];
    return found[out].data;
  }
}

function firstLine(error) {
  return String(error?.message ?? error).split("\n")[0].slice(0, 200);
}
