const MAX_ORIGINS = 256; // a client has one or a few
const MAX_LOST = 1024; // questions whose failure the SDK has in hand; one that is forgotten is asked under a new key

/**
 * A question without a good answer, whose key may have begun one.
 * @typedef {{key: string, since: number}} Lost
 */

/** What is remembered from one request to the next: servers that are Unbroken, and questions that were lost. */
export class Memory {
  /** @type {Map<string, true>} */
  #origins = new Map();
  /** @type {Map<string, Lost>} */
  #lost = new Map();

  /** @param {string} origin */
  knows(origin) {
    return this.#origins.has(origin);
  }

  /** @param {string} origin */
  meet(origin) {
    put(this.#origins, origin, true, MAX_ORIGINS);
  }

  /**
   * If the SDK asks this question again, then under the same key (L6).
   * @param {import("./question.js").Question} question
   * @param {number} since when it was cut first
   */
  lose(question, since) {
    put(this.#lost, question.likeness, { key: String(question.key), since }, MAX_LOST);
  }

  /**
   * Gives a question its key, unless the caller has; and says when it was cut first, null if it never was.
   * @param {import("./question.js").Question} question
   */
  identify(question) {
    const likeness = question.isRetry ? question.likeness : "";
    const lost = this.#lost.get(likeness);
    this.#lost.delete(likeness); // given once, so that no two requests share a key
    question.key ??= lost?.key ?? randomKey();
    return lost?.since ?? null;
  }
}

/**
 * @template Value
 * @param {Map<string, Value>} kept
 * @param {string} key
 * @param {Value} value
 * @param {number} most
 */
function put(kept, key, value, most) {
  kept.delete(key);
  kept.set(key, value);
  for (const oldest of kept.keys()) {
    if (kept.size <= most) return;
    kept.delete(oldest);
  }
}

function randomKey() {
  if (globalThis.crypto.randomUUID) return globalThis.crypto.randomUUID();
  // A page that came over plain http has no randomUUID.
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
