import { BlockSplitter, isCounted, isTerminal } from "./blocks.js";
import { ProtocolError } from "./errors.js";
import { Line, pause, silenceOf } from "./line.js";
import { discard, isEventStream, isPassing, readRetryAfter } from "./response.js";
import { Trouble } from "./trouble.js";

const CANCEL_LIMIT = 10_000; // milliseconds for the best effort to cancel a stream

/**
 * @typedef {import("./question.js").Question} Question
 * @typedef {Required<import("../index.js").UnbrokenFetchOptions>} Settings
 */

/** What the caller's body reads: the blocks of one stream, over as many lines as it takes. */
export class Answer {
  #question;
  #stream;
  #settings;
  #line;
  #trouble;
  #splitter = new BlockSplitter();
  #encoder = new TextEncoder();
  #offset = 0;
  #isOver = false;
  /** @type {ProtocolError | null} */
  #breach = null; // the line cannot be believed any more
  #leaving = new AbortController();
  /** @type {ReadableStreamDefaultController<Uint8Array> | null} */
  #sink = null;

  /**
   * @param {Question} question
   * @param {string} stream
   * @param {ReadableStream<Uint8Array>} body
   * @param {Settings} settings
   */
  constructor(question, stream, body, settings) {
    this.#question = question;
    this.#stream = stream;
    this.#settings = settings;
    this.#line = new Line(body, settings.silence);
    this.#trouble = new Trouble(settings.patience);
  }

  /** The body; it reads no further than its reader does. */
  body() {
    return new ReadableStream(
      {
        start: (sink) => this.#start(sink),
        pull: (sink) => this.#pull(sink),
        cancel: (reason) => this.#leave(reason),
      },
      { highWaterMark: 0 },
    );
  }

  /** @param {ReadableStreamDefaultController<Uint8Array>} sink */
  #start(sink) {
    this.#sink = sink;
    const { signal } = this.#question;
    if (signal?.aborted) this.#abort();
    else signal?.addEventListener("abort", this.#abort, { once: true });
  }

  /** @param {ReadableStreamDefaultController<Uint8Array>} sink */
  async #pull(sink) {
    try {
      while (!this.#isOver) {
        const text = await this.#nextText();
        if (text === "" || (this.#isOver && this.#leaving.signal.aborted)) continue;
        sink.enqueue(this.#encoder.encode(text));
        if (this.#isOver) sink.close();
        return;
      }
    } catch (error) {
      if (this.#leaving.signal.aborted) return; // the reader knows, it is the one who left
      this.#end();
      this.#line.close();
      throw error;
    }
  }

  /** Reads once, or takes a cut line up again; gives the blocks that came. */
  async #nextText() {
    try {
      if (this.#breach !== null) throw this.#breach;
      const bytes = await this.#line.read();
      return this.#isOver ? "" : this.#accept(bytes);
    } catch (cut) {
      if (!this.#isOver) await this.#resume(cut);
      return "";
    }
  }

  /** @param {Uint8Array} bytes */
  #accept(bytes) {
    let text = "";
    const comments = this.#splitter.comments;
    for (const block of this.#splitter.feed(bytes)) {
      const due = this.#offset + 1;
      const offset = isCounted(block) ? (block.id ?? due) : this.#offset;
      if (offset > due) {
        this.#breach = new ProtocolError(`stream ${this.#stream}: block ${offset} came where ${due} was due`);
        return text; // what came before it is counted, and must not be lost
      }
      if (isCounted(block) && offset < due) continue; // it came before
      this.#offset = offset;
      this.#trouble.answerGoesOn();
      text += block.text;
      if (!isTerminal(block)) continue;
      this.#end();
      void this.#line.finish();
      return text;
    }
    if (this.#splitter.comments > comments) this.#trouble.lineIsAlive();
    return text;
  }

  /** @param {unknown} cut */
  async #resume(cut) {
    this.#line.close();
    this.#trouble.begin(cut, performance.now());
    for (let asked = 0; ;) {
      await pause(this.#trouble.nextDelay(performance.now(), Math.random(), asked), this.#leaving.signal);
      const response = await this.#follow();
      if (this.#isOver) return discard(response);
      if (response?.ok && response.body && isEventStream(response)) {
        this.#line = new Line(response.body, this.#settings.silence);
        this.#splitter = new BlockSplitter(); // half a block is forgotten: it comes again, whole
        this.#breach = null;
        break;
      }
      discard(response);
      if (response && !response.ok && !isPassing(response)) throw this.#trouble.cause;
      asked = response ? readRetryAfter(response, Date.now()) : 0;
    }
    this.#settings.onResume(this.#trouble.overcome(this.#stream, this.#offset, performance.now()));
  }

  /** Asks for the blocks that are missing; null if there was no response. */
  async #follow() {
    const asking = new AbortController();
    const stop = () => asking.abort(this.#leaving.signal.reason);
    this.#leaving.signal.addEventListener("abort", stop, { once: true });
    const timer = setTimeout(() => asking.abort(silenceOf(this.#settings.silence)), this.#settings.silence);
    try {
      return await this.#settings.fetch(...this.#question.follow(this.#stream, this.#offset, asking.signal));
    } catch {
      this.#leaving.signal.throwIfAborted();
      return null;
    } finally {
      clearTimeout(timer);
      this.#leaving.signal.removeEventListener("abort", stop);
    }
  }

  #abort = () => {
    const reason = this.#question.signal?.reason;
    this.#sink?.error(reason);
    this.#leave(reason);
  };

  /**
   * The reader wants no more: the answer is stopped (D5).
   * @param {unknown} reason
   */
  #leave(reason) {
    if (this.#isOver) return;
    this.#end();
    this.#leaving.abort(reason);
    this.#line.close();
    void cancelStream(this.#question, this.#stream, this.#settings);
  }

  #end() {
    this.#isOver = true;
    this.#question.signal?.removeEventListener("abort", this.#abort);
  }
}

/**
 * Cancels a stream whose reader has left; if that fails, the server does it when it has waited long enough (D9).
 * @param {Question} question
 * @param {string} stream
 * @param {Settings} settings
 */
export async function cancelStream(question, stream, { fetch }) {
  if (question.outlivesReader) return;
  try {
    discard(await fetch(...question.cancel(stream, AbortSignal.timeout(CANCEL_LIMIT))));
  } catch {
    // Nobody is left to tell.
  }
}
