import { ProtocolError } from "./errors.js";

export const MAX_BLOCK_BYTES = 4 << 20; // the largest event of the protocol (S4)

const LINE_FEED = 10;
const CARRIAGE_RETURN = 13;
const COLON = 58;
const BYTE_ORDER_MARK = [0xef, 0xbb, 0xbf];
const WITHHELD_FIELDS = new Set(["id", "retry", ""]); // the SDKs never asked for them, and some stumble (S2, S3)
const TERMINAL_EVENTS = new Set([
  "message_stop",
  "response.completed",
  "response.failed",
  "response.incomplete",
  "error",
]);
// Told without reading JSON for nearly every block: most have none of these words.
const MAYBE_TERMINAL = /"(?:error|message_stop|response\.(?:completed|failed|incomplete))"/;

/**
 * One event as the server wrote it, without its id and its comments.
 * @typedef {object} Block
 * @property {number | null} id the offset that the server gave it, if any
 * @property {string} event its type, "" where it names none
 * @property {string} data
 * @property {string} text what is handed on, the empty line at the end included
 */

/** Cuts bytes into blocks by the rules of WHATWG (S4), wherever the bytes were cut; what has no data is no block. */
export class BlockSplitter {
  #limit;
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // a mark in the middle of an answer is text
  /** @type {Uint8Array[]} */
  #line = []; // pieces of a line that has not ended
  /** @type {string[]} */
  #fields = []; // whole lines of a block that has not ended
  #size = 0;
  #isAtStart = true;
  #skipsLineFeed = false;
  /** How many comments came, for one is a sign of life. */
  comments = 0;

  constructor(limit = MAX_BLOCK_BYTES) {
    this.#limit = limit;
  }

  /**
   * Gives the blocks that end in `bytes`.
   * @param {Uint8Array} bytes
   * @returns {Block[]}
   */
  feed(bytes) {
    const blocks = [];
    let begin = 0;
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at];
      if (byte !== LINE_FEED && byte !== CARRIAGE_RETURN) {
        this.#skipsLineFeed = false;
        continue;
      }
      if (byte === LINE_FEED && this.#skipsLineFeed) {
        this.#skipsLineFeed = false;
        begin = at + 1;
        continue;
      }
      this.#skipsLineFeed = byte === CARRIAGE_RETURN;
      this.#hold(bytes.subarray(begin, at));
      begin = at + 1;
      const block = this.#endLine();
      if (block !== null) blocks.push(block);
    }
    if (begin < bytes.length) this.#hold(bytes.slice(begin)); // a copy: the rest of the read need not stay
    return blocks;
  }

  /** @param {Uint8Array} piece */
  #hold(piece) {
    this.#size += piece.length;
    if (this.#size > this.#limit) throw new ProtocolError(`a block is larger than ${this.#limit} bytes`);
    this.#line.push(piece);
  }

  /** @returns {Block | null} */
  #endLine() {
    let line = joined(this.#line);
    this.#line = [];
    if (this.#isAtStart && BYTE_ORDER_MARK.every((byte, place) => line[place] === byte)) line = line.subarray(3);
    this.#isAtStart = false;
    if (line.length > 0) {
      if (line[0] === COLON) {
        this.#size -= line.length;
        this.comments += 1;
      } else {
        this.#fields.push(this.#decoder.decode(line));
      }
      return null;
    }
    const fields = this.#fields;
    this.#fields = [];
    this.#size = 0;
    return readBlock(fields);
  }
}

/**
 * Whether nothing follows a block (L1).
 * @param {Block} block
 */
export function isTerminal({ event, data }) {
  if (TERMINAL_EVENTS.has(event) || data === "[DONE]") return true;
  if (!MAYBE_TERMINAL.test(data)) return false;
  const value = readObject(data);
  return Boolean(value.error) || TERMINAL_EVENTS.has(String(value.type));
}

/**
 * Whether a block counts as an offset: a keep-alive of Messages (A6) is none unless it has a number of its own.
 * @param {Block} block
 */
export function isCounted({ id, event }) {
  return id !== null || event !== "ping";
}

/**
 * @param {string[]} lines
 * @returns {Block | null}
 */
function readBlock(lines) {
  /** @type {number | null} */
  let id = null;
  let event = "";
  const data = [];
  const kept = [];
  for (const line of lines) {
    const [name, value] = readField(line);
    if (name === "id" && /^\d{1,15}$/.test(value)) id = Number(value);
    if (name === "event") event = value;
    if (name === "data") data.push(value);
    if (!WITHHELD_FIELDS.has(name)) kept.push(line);
  }
  return data.length === 0 ? null : { id, event, data: data.join("\n"), text: `${kept.join("\n")}\n\n` };
}

/**
 * @param {string} line
 * @returns {[string, string]}
 */
function readField(line) {
  const colon = line.indexOf(":");
  if (colon === -1) return [line, ""];
  return [line.slice(0, colon), line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1)];
}

/**
 * @param {string} json
 * @returns {{error?: unknown, type?: unknown}}
 */
function readObject(json) {
  try {
    return Object(JSON.parse(json));
  } catch {
    return {}; // it is for the SDK to complain of what cannot be read
  }
}

/** @param {Uint8Array[]} pieces */
function joined(pieces) {
  if (pieces.length === 1) return pieces[0];
  const whole = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
