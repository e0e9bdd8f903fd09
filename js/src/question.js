const GENERATING = /\/(?:chat\/completions|responses|messages)$/;
const JSON_TYPE = /^application\/(?:[\w.+-]+\+)?json\b/i;
const OF_THE_QUESTION = ["content-type", "content-length", "idempotency-key", "unbroken-durable"];
const OF_A_REQUEST = /** @type {const} */ ([
  "cache",
  "credentials",
  "integrity",
  "mode",
  "redirect",
  "referrer",
  "signal",
]);

/** A request for an answer, made durable (D1), and the requests that belong to the answer's stream (D3, D5). */
export class Question {
  #text;

  /**
   * @param {URL} url
   * @param {RequestInit} init
   * @param {Headers} headers
   * @param {string} text
   */
  constructor(url, init, headers, text) {
    this.url = url.href;
    this.origin = url.origin;
    this.signal = init.signal ?? null;
    /** Whether a reader who leaves does not mean that the answer shall stop: a background response (Responses). */
    this.outlivesReader = isBackground(url, text);
    /** Whether the SDK says that it has asked this before. */
    this.isRetry = (headers.get("x-stainless-retry-count") ?? "0") !== "0";
    this.init = { ...init, headers };
    this.streams = new URL(url.pathname.replace(GENERATING, "/streams/"), url).href;
    this.#text = text;
    headers.set("unbroken-durable", "true");
  }

  /** The key of its own that the caller gave it, null if none. */
  get key() {
    return this.init.headers.get("idempotency-key");
  }

  set key(key) {
    this.init.headers.set("idempotency-key", String(key));
  }

  /** What two attempts at one question have in common: where it goes, whose it is, and what it says. */
  get likeness() {
    const { headers } = this.init;
    return [this.url, headers.get("authorization"), headers.get("x-api-key"), digest(this.#text)].join(" ");
  }

  /**
   * What asks for the blocks of a stream behind an offset.
   * @param {string} stream
   * @param {number} offset
   * @param {AbortSignal} signal
   * @returns {[string, RequestInit]}
   */
  follow(stream, offset, signal) {
    const [url, init] = this.#about(stream, "GET", signal);
    init.headers.set("accept", "text/event-stream");
    init.headers.set("last-event-id", String(offset));
    return [url, init];
  }

  /**
   * What cancels a stream.
   * @param {string} stream
   * @param {AbortSignal} signal
   * @returns {[string, RequestInit]}
   */
  cancel(stream, signal) {
    return this.#about(stream, "DELETE", signal);
  }

  /**
   * @param {string} stream
   * @param {string} method
   * @param {AbortSignal} signal
   * @returns {[string, RequestInit & {headers: Headers}]}
   */
  #about(stream, method, signal) {
    const headers = new Headers(this.init.headers); // the same keys, and what proxies on the way may want
    for (const name of OF_THE_QUESTION) headers.delete(name);
    return [this.streams + encodeURIComponent(stream), { ...this.init, body: undefined, method, headers, signal }];
  }
}

/**
 * Reads a call of fetch: a question that is to be asked durably, or null if it is none of our business.
 * @param {string | URL | Request} input
 * @param {RequestInit} [init]
 */
export async function recogniseQuestion(input, init = {}) {
  const request = typeof Request === "function" && input instanceof Request ? input : null;
  const url = readUrl(request ? request.url : String(input));
  const method = init.method ?? request?.method ?? "GET";
  if (url === null || method.toUpperCase() !== "POST" || !GENERATING.test(url.pathname)) return null;
  const headers = new Headers(init.headers ?? request?.headers);
  // Who says whether it is to be durable reads the stream in ways of their own.
  if (!JSON_TYPE.test(headers.get("content-type") ?? "") || headers.has("unbroken-durable")) return null;
  const body = init.body ?? (request && !request.bodyUsed ? await request.clone().text() : null);
  const text = readText(body);
  if (text === null || !text.includes('"model"')) return null; // a message of a thread has no model
  return new Question(url, { ...settingsOf(request), ...init, method, body }, headers, text);
}

/** @param {string} text */
function readUrl(text) {
  try {
    return new URL(text, globalThis.location?.href);
  } catch {
    return null; // fetch itself says best what is wrong with it
  }
}

/**
 * The text of a body that can be sent again, else null.
 * @param {unknown} body
 */
function readText(body) {
  if (typeof body === "string") return body;
  if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) {
    return new TextDecoder().decode(/** @type {ArrayBuffer} */ (body));
  }
  return null;
}

/**
 * @param {URL} url
 * @param {string} text
 */
function isBackground(url, text) {
  // The pattern spares nearly all bodies from being read; within a string its quotes would be escaped.
  if (!url.pathname.endsWith("/responses") || !/"background"\s*:\s*true/.test(text)) return false;
  try {
    return JSON.parse(text).background === true;
  } catch {
    return false;
  }
}

/**
 * @param {Request | null} request
 * @returns {RequestInit}
 */
function settingsOf(request) {
  return request ? Object.fromEntries(OF_A_REQUEST.map((name) => [name, request[name]])) : {};
}

/**
 * Two questions that have this in common have all in common, but for one pair in 2⁶⁴; it need not withstand an enemy.
 * @param {string} text
 */
function digest(text) {
  let [low, high] = [0xdeadbeef, 0x41c6ce57];
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    low = Math.imul(low ^ unit, 2654435761);
    high = Math.imul(high ^ unit, 1597334677);
  }
  return `${text.length} ${low >>> 0} ${high >>> 0}`;
}
