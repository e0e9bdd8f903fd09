import { ask } from "./src/ask.js";
import { Memory } from "./src/memory.js";
import { recogniseQuestion } from "./src/question.js";

export { CutError, ProtocolError } from "./src/errors.js";

const PATIENCE = 120_000; // milliseconds; a gateway restarts, or another one takes the stream over, in far less
const SILENCE = 45_000; // milliseconds; three keep-alives of a gateway with its usual settings

/** @type {typeof import("./index.js").unbrokenFetch} */
export function unbrokenFetch({ fetch, patience = PATIENCE, silence = SILENCE, onResume } = {}) {
  // Called without `this`, and looked up late: a browser's fetch insists on it, and some programs replace it.
  const plainFetch = fetch
    ? fetch
    : (/** @type {any} */ input, /** @type {any} */ init) => globalThis.fetch(input, init);
  const settings = { fetch: plainFetch, patience, silence, onResume: onResume ?? (() => {}) };
  const memory = new Memory();
  return async function resumingFetch(input, init) {
    const question = await recogniseQuestion(input, init);
    return question === null ? plainFetch(input, init) : ask(question, settings, memory);
  };
}
