const FIRST_DELAY = 250; // milliseconds, after an attempt at once
const LONGEST_DELAY = 8_000; // milliseconds

/** The time since a line was cut: how long to wait before each attempt, and when patience has run out. */
export class Trouble {
  #patience;
  #earlier;
  #since = 0;
  /** @type {{error: unknown} | null} */
  #first = null;
  attempt = 0;

  /**
   * @param {number} patience milliseconds
   * @param {number | null} earlier when the trouble began, if somebody else has met it before
   */
  constructor(patience, earlier = null) {
    this.#patience = patience;
    this.#earlier = earlier;
  }

  /** Whether something has failed since the last progress. */
  get isOn() {
    return this.#first !== null;
  }

  /** What failed first: what is surfaced if nothing helps. */
  get cause() {
    return this.#first?.error;
  }

  /** @param {unknown} error @param {number} now */
  begin(error, now) {
    if (this.#first !== null) return;
    this.#first = { error };
    this.#since = this.#earlier ?? now;
  }

  /** A keep-alive came: patience begins anew. */
  lineIsAlive() {
    this.#first = null;
  }

  /** A block came: the next cut is met at once again. */
  answerGoesOn() {
    this.#first = null;
    this.attempt = 0;
  }

  /**
   * What there is to tell when the stream is read again.
   * @param {string} stream
   * @param {number} offset
   * @param {number} now
   * @returns {import("../index.js").Resumption}
   */
  overcome(stream, offset, now) {
    return { stream, offset, attempt: this.attempt, cause: this.cause, waited: Math.round(now - this.#since) };
  }

  /**
   * Counts an attempt and gives the milliseconds to wait before it; throws the cause if patience has run out.
   * @param {number} now
   * @param {number} chance from 0 to 1: those who were cut together should not come back together
   * @param {number} asked milliseconds that the server wishes
   */
  nextDelay(now, chance, asked) {
    const left = this.#since + this.#patience - now;
    if (left <= 0 || asked > left) throw this.cause;
    const doubled = this.attempt === 0 ? 0 : FIRST_DELAY * 2 ** Math.min(this.attempt - 1, 64);
    this.attempt += 1;
    return Math.min(left, Math.max(asked, Math.min(doubled, LONGEST_DELAY) * (0.5 + chance)));
  }
}
