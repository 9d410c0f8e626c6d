// Questions to the worker that has the model.
import { Problem } from "./problem.js";

export class Client {
  #worker;
  #open = new Map();
  #count = 0;
  #broken = null;

  constructor(worker) {
    this.#worker = worker;
    worker.onmessage = ({ data }) => this.#hear(data);
    worker.onerror = (event) => {
      event.preventDefault?.();
      const why = event.message || "one of its files is missing";
      this.#broken = new Problem(`The model's program ended: ${why}. Load the page again.`);
      for (const { reject } of this.#open.values()) reject(this.#broken);
      this.#open.clear();
    };
  }

  /**
   * @param kind of the question, see worker.js
   * @param tell called with what the worker says before its answer
   */
  ask(kind, data = {}, transfer = [], tell = () => {}) {
    if (this.#broken) return Promise.reject(this.#broken);
    return new Promise((resolve, reject) => {
      this.#open.set(++this.#count, { resolve, reject, tell });
      this.#worker.postMessage({ id: this.#count, kind, ...data }, transfer);
    });
  }

  #hear({ id, told, answer, problem }) {
    const asked = this.#open.get(id);
    if (!asked) return;
    if (told !== undefined) return void asked.tell(told);
    this.#open.delete(id);
    if (problem !== undefined) asked.reject(new Problem(problem));
    else asked.resolve(answer);
  }
}
