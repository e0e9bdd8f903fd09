/** A line that ended before the answer did, or fell silent. */
export class CutError extends Error {
  name = /** @type {const} */ ("CutError");
}

/** A server that breaks the protocol of durable streams. */
export class ProtocolError extends Error {
  name = /** @type {const} */ ("ProtocolError");
}
