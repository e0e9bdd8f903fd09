const MAX_WHOLE_BYTES = 64 << 20; // held of an answer in one piece; the rest of a larger one comes as its line allows
const STREAM_ID = /^\w[\w.~-]{0,254}$/;
// What passes: a server that is busy or starting, a balancer that has none to ask, an edge that lost its origin.
const PASSING = new Set([408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527, 529]);

/**
 * Whether a server has a word that only Unbroken has.
 * @param {Response} response
 */
export function isOfUnbroken({ headers }) {
  return Array.from(headers.keys()).some((name) => name.startsWith("unbroken-"));
}

/**
 * The id of the stream that a response belongs to (D1), null if to none.
 * @param {Response} response
 */
export function streamOf({ headers }) {
  const id = headers.get("unbroken-stream");
  return id !== null && STREAM_ID.test(id) ? id : null;
}

/**
 * Whether a response's body is a stream of blocks.
 * @param {Response} response
 */
export function isEventStream({ headers }) {
  return /^text\/event-stream\b/i.test(headers.get("content-type") ?? "");
}

/**
 * Whether a response says that nobody can answer at the moment, and not that nobody will.
 * @param {Response} response
 */
export function isPassing({ status }) {
  return PASSING.has(status);
}

/**
 * The milliseconds for which a response asks to be left alone; 0 if it does not say.
 * @param {Response} response
 * @param {number} date milliseconds since 1970
 */
export function readRetryAfter({ headers }, date) {
  const exact = Number(headers.get("retry-after-ms"));
  if (exact > 0) return exact;
  const text = headers.get("retry-after") ?? "";
  const milliseconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) * 1000 : Date.parse(text) - date;
  return Math.max(0, milliseconds || 0);
}

/**
 * Lets go of a response that nobody will read.
 * @param {Response | null} response
 */
export function discard(response) {
  response?.body?.cancel().catch(() => {}); // it may have broken by itself
}

/**
 * A response that differs from another one in its body only.
 * @param {Response} original
 * @param {BodyInit} body
 * @returns {Response}
 */
export function withBody(original, body) {
  const { status, statusText, headers } = original;
  return likened(new Response(body, { status, statusText, headers }), original);
}

/**
 * Reads an answer in one piece to its end; throws what cuts it.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {Promise<BodyInit>}
 */
export async function readWhole(body, limit = MAX_WHOLE_BYTES) {
  const reader = body.getReader();
  /** @type {Uint8Array[]} */
  const pieces = [];
  for (let size = 0; size <= limit;) {
    const { done, value } = await reader.read();
    if (done) return new Blob(/** @type {BlobPart[]} */ (pieces));
    size += value.length;
    pieces.push(value);
  }
  return new ReadableStream({
    async pull(sink) {
      const { done, value } = pieces.length > 0 ? { done: false, value: pieces.shift() } : await reader.read();
      if (done) sink.close();
      else sink.enqueue(value);
    },
    cancel: (reason) => reader.cancel(reason),
  });
}

/**
 * What `new Response` cannot be told: where it came from.
 * @param {Response} response
 * @param {Response} original
 * @returns {Response}
 */
function likened(response, original) {
  const { url, redirected, type } = original;
  const clone = () => likened(Response.prototype.clone.call(response), original);
  return Object.defineProperties(response, {
    url: { value: url },
    redirected: { value: redirected },
    type: { value: type },
    clone: { value: clone },
  });
}
