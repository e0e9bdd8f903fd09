/** What happened when a cut line was taken up again. */
export interface Resumption {
  /** The stream's id, as in the response header `Unbroken-Stream`. */
  readonly stream: string;
  /** The number of the last block that had arrived; 0 if none had. */
  readonly offset: number;
  /** How many times it was tried since the last block, this time included. */
  readonly attempt: number;
  /** What had cut the line. */
  readonly cause: unknown;
  /** Milliseconds from the cut until now. */
  readonly waited: number;
}

export interface UnbrokenFetchOptions {
  /** The fetch that does the work; `globalThis.fetch` if left out. */
  readonly fetch?: (input: any, init?: any) => Promise<Response>;
  /** Milliseconds from a cut to the next block or keep-alive, after which it is an error after all; 120 000 if left out. */
  readonly patience?: number;
  /** Milliseconds in which nothing comes, no keep-alive either, after which a line counts as cut; 45 000 if left out. */
  readonly silence?: number;
  /** Is called each time that a cut line was taken up again. */
  readonly onResume?: (resumption: Resumption) => void;
}

/** Makes a fetch that takes up the cut answers of an Unbroken gateway again; with any other server it changes nothing. */
export function unbrokenFetch(
  options?: UnbrokenFetchOptions,
): (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

/** A line that ended before the answer did, or fell silent; the answer could not be taken up again. */
export class CutError extends Error {
  readonly name: "CutError";
}

/** A server that breaks the protocol of durable streams. */
export class ProtocolError extends Error {
  readonly name: "ProtocolError";
}
