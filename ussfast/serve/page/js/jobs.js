// Jobs of the server, followed until they end.
import { call, events, json, Problem } from "./api.js";

const OVER = ["done", "failed", "cancelled"];
const AGAIN_MS = 1000;
const TRIES = 30;

/**
 * Follows a job to its end, over connections that break.
 * @param told called with each state of it
 * @returns its last state, which is "done"
 * @throws Problem where it failed; an AbortError where it was cancelled
 */
export async function follow(job, told, signal) {
  let tries = 0;
  for (let now = job; ; ) {
    told(now);
    if (OVER.includes(now.status)) return ended(now);
    try {
      for await (const { data } of events(`/v1/jobs/${job.id}/events`, signal)) {
        [now, tries] = [JSON.parse(data), 0];
        told(now);
        if (OVER.includes(now.status)) return ended(now);
      }
    } catch (error) {
      if (!(error instanceof Problem || error instanceof TypeError)) throw error;
      if (error.status && error.status !== 429 && error.status < 500) throw error;
      if (++tries > TRIES) throw error;
      await wait(error.retryAfter ? error.retryAfter * 1000 : AGAIN_MS, signal);
      continue;
    }
    await wait(AGAIN_MS / 4, signal);
    now = await json(`/v1/jobs/${job.id}`, { signal });
  }
}

function ended(job) {
  if (job.status === "done") return job;
  if (job.status === "cancelled") throw new DOMException("cancelled", "AbortError");
  throw new Problem(job.error?.detail ?? "The job failed; the server's log says why.", job.error?.status ?? 500);
}

function wait(ms, signal) {
  return new Promise((done, failed) => {
    const timer = setTimeout(done, ms);
    const stop = () => (clearTimeout(timer), failed(new DOMException("cancelled", "AbortError")));
    signal?.aborted ? stop() : signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Ends a job; one that is over already stays as it is. */
export async function cancel(job) {
  try {
    await call(`/v1/jobs/${job.id}/cancel`, { method: "POST" });
  } catch (error) {
    if (![404, 409].includes(error.status)) throw error;
  }
}

/** How far a job is: {share of 1 or null, text}. */
export function progressOf(job) {
  const { done_s: done = 0, total_s: total = null, message = null } = job.progress ?? {};
  if (job.status === "queued") return { share: null, text: message ?? "Waiting for its turn" };
  const share = total ? Math.min(1, done / total) : null;
  const part = share === null ? "" : `${Math.round(share * 100)} %`;
  return { share, text: [message ?? "Working", part].filter(Boolean).join(", ") };
}
