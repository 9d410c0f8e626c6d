// CPU time of one step in WebAssembly, one thread, by number of sounds:
//   npm install onnxruntime-web@1.30.0 && cp bench/web_step.mjs . && node web_step.mjs step.onnx
// A module is looked for beside its script: run a copy where the package was installed.
import fs from "node:fs";
import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1;
const graph = new Uint8Array(fs.readFileSync(process.argv[2]));
const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });

function inputs(sources) {
  const sizes = { batch: 1, sources };
  const made = {};
  for (const one of session.inputMetadata) {
    const shape = one.shape.map((size) => (typeof size === "number" ? size : sizes[size]));
    const count = shape.reduce((a, b) => a * b, 1);
    made[one.name] = new ort.Tensor("float32", new Float32Array(count).map(() => Math.random() * 0.1), shape);
  }
  return made;
}

const RUNS = 200;
const warm = inputs(8);
for (let i = 0; i < 3 * RUNS; i += 1) await session.run(warm); // until V8 has compiled it
for (const sources of [1, 2, 4, 8]) {
  const given = inputs(sources);
  const before = process.cpuUsage();
  for (let i = 0; i < RUNS; i += 1) await session.run(given);
  const spent = process.cpuUsage(before);
  console.log(`${sources} sounds: ${((spent.user + spent.system) / RUNS / 1000).toFixed(2)} ms of CPU time per step`);
}
