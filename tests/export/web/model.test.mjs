import assert from "node:assert/strict";
import test from "node:test";

import { readManifest } from "../../../export/web/manifest.js";
import { Model } from "../../../export/web/model.js";

const HOP = 4;
const port = (name, ...shape) => ({ name, shape, dtype: "float32" });
const VECTORS = { it: [1, 2], that: [3, 4], more: [5, 6] };

/** What an export of a small model says; other names than those of our models, so that nothing here knows them. */
function described() {
  return {
    format: "ussfast-export", version: 1, kind: "onnx", name: "small", sample_rate: 8000, hop: HOP, latency_samples: 8,
    graphs: {
      prompts: {
        file: "p.onnx", sha256: "", state: [], dims: { rows: [1, 4], sounds: [1, 2] },
        inputs: [port("vectors", "rows", "sounds", 2)], outputs: [port("factor", "rows", "sounds", 1)],
      },
      step: {
        file: "s.onnx", sha256: "", state: [["sum", "sum_after"]], dims: { rows: [1, 3], sounds: [1, 2] },
        inputs: [port("in", "rows", HOP), port("factor", "rows", "sounds", 1), port("sum", "rows", "sounds", 3)],
        outputs: [port("made", "rows", "sounds", HOP), port("sum_after", "rows", "sounds", 3)],
      },
    },
  };
}

class Tensor {
  constructor(type, data, dims) {
    assert.equal(type, "float32");
    assert.equal(data.length, dims.reduce((a, b) => a * b, 1));
    [this.data, this.dims] = [data, dims];
  }
}

/** Factor: the sum of a vector. Made: audio times factor, plus what is remembered, which counts steps. */
const GRAPHS = {
  prompts({ vectors }) {
    const [rows, sounds] = vectors.dims;
    const sums = Float32Array.from({ length: rows * sounds }, (_, i) => vectors.data[2 * i] + vectors.data[2 * i + 1]);
    return { factor: new Tensor("float32", sums, [rows, sounds, 1]) };
  },
  step({ in: audio, factor, sum }) {
    const [rows, sounds] = factor.dims;
    assert.deepEqual([audio.dims, sum.dims], [[rows, HOP], [rows, sounds, 3]]);
    const made = Float32Array.from({ length: rows * sounds * HOP }, (_, i) => {
      const source = Math.floor(i / HOP);
      return audio.data[Math.floor(source / sounds) * HOP + (i % HOP)] * factor.data[source] + sum.data[3 * source];
    });
    const after = new Tensor("float32", sum.data.map((x) => x + 1), sum.dims);
    return { made: new Tensor("float32", made, [rows, sounds, HOP]), sum_after: after };
  },
};

const ORT = {
  Tensor,
  InferenceSession: {
    async create(bytes) {
      const name = new TextDecoder().decode(bytes);
      if (!GRAPHS[name]) throw new Error("no such protobuf\nmore");
      const inputNames = described().graphs[name].inputs.map((found) => found.name);
      return { inputNames, run: async (feeds) => GRAPHS[name](feeds) };
    },
  },
};

const encoded = (text) => new TextEncoder().encode(text);
const FILES = { prompts: encoded("prompts"), step: encoded("step") };

test("a stream asks by vectors, begins with zeros and remembers", async () => {
  const model = await Model.open(ORT, readManifest(described(), VECTORS), FILES);
  const stream = await model.stream(["that", "it"], 2);
  const audio = Float32Array.of(1, 2, 3, 4, 10, 20, 30, 40);
  const expected = [7, 14, 21, 28, 3, 6, 9, 12, 70, 140, 210, 280, 30, 60, 90, 120];
  assert.deepEqual([...(await stream.step(audio))], expected);
  assert.deepEqual([...(await stream.step(audio))], expected.map((x) => x + 1));
  const other = await model.stream(["it"]);
  assert.deepEqual([...(await other.step(audio.subarray(0, 4)))], [3, 6, 9, 12]);
  assert.deepEqual([...(await stream.step(audio))], expected.map((x) => x + 2));
});

test("wrong sounds are a problem", async () => {
  const model = await Model.open(ORT, readManifest(described(), VECTORS), FILES);
  await assert.rejects(model.stream([]), /at least one/);
  await assert.rejects(model.stream(["it", "that", "more"]), /At most 2/);
  await assert.rejects(model.stream(["toString"]), /no sound toString/);
});

test("damaged graphs are a problem of one line", async () => {
  const manifest = readManifest(described(), VECTORS);
  await assert.rejects(Model.open(ORT, manifest, { ...FILES, step: encoded("x") }), (error) => {
    assert.match(error.message, /^model\/s\.onnx cannot be opened: export the model again \(no such protobuf\)$/);
    return true;
  });
  const other = { ...manifest, step: { ...manifest.step, inputs: [...manifest.step.inputs, port("else")] } };
  await assert.rejects(Model.open(ORT, other, FILES), /no input else/);
});

test("the manifest says what the page needs", () => {
  const { vectors, step, prompts, ...rest } = readManifest(described(), VECTORS);
  const sizes = { name: "small", rate: 8000, hop: 4, latency: 8, most: 2, rows: 3 };
  assert.deepEqual(rest, { ...sizes, audio: "in", out: "made", vector: "vectors" });
  assert.deepEqual([step.file, prompts.file], ["s.onnx", "p.onnx"]);
  assert.deepEqual([...vectors], Object.entries(VECTORS).map(([key, value]) => [key, Float32Array.from(value)]));
});

const WRONG = {
  "not ussfast-export, version 2": (data) => (data.version = 2),
  "not undefined, version 1": (data) => delete data.format,
  "not aoti": (data) => (data.kind = "aoti"),
  "no graph that goes hop by hop": (data) => delete data.graphs.step,
  "no graph that": (data) => delete data.graphs,
  "hop must be a whole number, got null": (data) => (data.hop = null),
  "latency_samples must be a whole number": (data) => (data.latency_samples = 1.5),
  "less than one hop": (data) => (data.latency_samples = 3),
  "sample_rate must be": (data) => (data.sample_rate = "8000"),
  "prompts is not described": (data) => delete data.graphs.prompts.outputs,
  "step is not described": (data) => (data.graphs.step.file = "../s.onnx"),
  "one input for audio": (data) => data.graphs.step.inputs.push(port("noise", "rows", HOP)),
  "one output for audio": (data) => data.graphs.step.outputs.push(port("noise", "rows", HOP)),
  "not one hop of 5": (data) => (data.hop = 5),
};
for (const [said, harm] of Object.entries(WRONG)) {
  test(`a wrong manifest is a problem: ${said}`, () => {
    const data = described();
    harm(data);
    const fits = (error) => error.name === "Problem" && error.message.includes(said);
    assert.throws(() => readManifest(data, VECTORS), fits);
  });
}

test("wrong vectors are a problem", () => {
  assert.throws(() => readManifest(null, VECTORS), /reads ussfast-export/);
  for (const none of [{}, null]) assert.throws(() => readManifest(described(), none), /no prompts/);
  for (const numbers of [[1], [1, "2"], [1, NaN], 3]) {
    assert.throws(() => readManifest(described(), { it: numbers }), /it must be 2 numbers/);
  }
});
