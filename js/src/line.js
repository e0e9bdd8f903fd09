import { CutError } from "./errors.js";

const LAST_WORDS = 1_000; // milliseconds that a server has to end a response whose last block has come

/** One response's body, which falls silent no longer than `silence` milliseconds without that being a cut. */
export class Line {
  #reader;
  #silence;

  /**
   * @param {ReadableStream<Uint8Array>} body
   * @param {number} silence
   */
  constructor(body, silence) {
    this.#reader = body.getReader();
    this.#silence = silence;
  }

  /** Gives the next bytes; throws what cut the line, its regular end too. */
  async read() {
    const { done, value } = await withLimit(this.#reader.read(), this.#silence, () => silenceOf(this.#silence));
    if (done) throw new CutError("the response ended before the answer did");
    return value;
  }

  /** Closes the connection. */
  close() {
    this.#reader.cancel().catch(() => {}); // a line that is already broken is closed enough
  }

  /** Reads to the end of a response that has said all, so that its connection can be used again. */
  async finish() {
    try {
      while (!(await withLimit(this.#reader.read(), LAST_WORDS, () => silenceOf(LAST_WORDS))).done);
    } catch {
      this.close();
    }
  }
}

/** @param {number} milliseconds */
export function silenceOf(milliseconds) {
  return new CutError(`nothing came for ${milliseconds / 1000} s`);
}

/**
 * Waits; throws the signal's reason if that is aborted first.
 * @param {number} milliseconds
 * @param {AbortSignal | null} signal
 * @returns {Promise<void>}
 */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const giveUp = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", giveUp);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", giveUp, { once: true });
  });
}

/**
 * @template T
 * @param {Promise<T>} promise
 * @param {number} milliseconds
 * @param {() => Error} lateness
 * @returns {Promise<T>}
 */
function withLimit(promise, milliseconds, lateness) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(lateness()), milliseconds);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
