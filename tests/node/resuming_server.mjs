// A small server of durable streams (docs/protocol.md, D1 to D8), whose lines break where a test wants it.
import { createServer } from "node:http";
import { once } from "node:events";

/**
 * What happens to a response: `after` bytes of its body come, and then a `reset`, a regular `end`, or nothing (`stall`);
 * or the line breaks before (`refuse`), or nothing comes at all (`mute`); or it is a `status` of its own.
 * null lets it come whole.
 * @typedef {{after: number, how: "reset" | "end" | "stall"}
 *   | {how: "refuse" | "mute"}
 *   | {status: number, headers?: Record<string, string>}} Fault
 */

/** A server that serves until its test has ended. */
export async function startServer(test, answer) {
  const server = await new StreamServer(answer).start();
  test.after(() => server.server.listening && server.stop());
  return server;
}

export class StreamServer {
  /**
   * @param {{blocks?: string[], whole?: object, isUnbroken?: boolean,
   *   fault?: (asked: {query: URLSearchParams, line: number, method: string}) => Fault | null}} answer
   *   `line` counts the responses about one stream from 0
   */
  constructor({ blocks = [], whole = {}, isUnbroken = true, fault = () => null }) {
    Object.assign(this, { blocks, whole, isUnbroken, fault });
    this.requests = [];
    this.streams = new Map();
    this.port = 0;
    this.server = createServer((request, response) => this.#serve(request, response));
  }

  get url() {
    return `http://127.0.0.1:${this.port}/v1`;
  }

  async start() {
    this.server.listen(this.port, "127.0.0.1");
    await once(this.server, "listening");
    this.port = this.server.address().port;
    return this;
  }

  async stop() {
    this.server.close();
    this.server.closeAllConnections();
    await once(this.server, "close");
  }

  /** The requests of a method, in the order in which they came. */
  asked(method) {
    return this.requests.filter((request) => request.method === method);
  }

  /** Waits until a condition holds that a request brings about. */
  async waitUntil(condition) {
    while (!condition()) await once(this.server, "seen");
  }

  async #serve(request, response) {
    const url = new URL(request.url, this.url);
    let body = "";
    for await (const piece of request.setEncoding("utf8")) body += piece;
    this.requests.push({ method: request.method, path: url.pathname, headers: request.headers, body });
    if (request.method === "POST") this.#create(url, request, response, JSON.parse(body));
    else this.#visit(url, request, response);
    this.server.emit("seen");
  }

  #create(url, request, response, body) {
    const key = request.headers["idempotency-key"];
    const isReplayed = this.streams.has(key);
    const made = { id: `stream-${this.streams.size + 1}`, query: url.searchParams, lines: 0, state: "running" };
    const stream = this.streams.get(key) ?? made;
    this.streams.set(key, stream);
    const headers = {};
    if (this.isUnbroken) headers["unbroken-stream"] = stream.id;
    if (isReplayed) headers["unbroken-replayed"] = "true";
    if (body.stream) this.#send(stream, "POST", response, headers, this.#bytes(0));
    else this.#send(stream, "POST", response, headers, Buffer.from(JSON.stringify(this.whole)), "application/json");
  }

  #visit(url, request, response) {
    const stream = [...this.streams.values()].find(({ id }) => url.pathname === `/v1/streams/${id}`);
    if (!stream) {
      response.writeHead(404).end();
    } else if (request.method === "DELETE") {
      stream.state = "cancelled";
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ id: stream.id }));
    } else {
      this.#send(stream, "GET", response, {}, this.#bytes(Number(request.headers["last-event-id"])));
    }
  }

  #bytes(after) {
    const numbered = this.blocks.map((block, place) => `id: ${place + 1}\n${block}\n\n`);
    return Buffer.from(
      ": keep-alive\n" + (this.isUnbroken ? numbered.slice(after).join("") : this.blocks.join("\n\n") + "\n\n"),
    );
  }

  #send(stream, method, response, headers, bytes, type = "text/event-stream; charset=utf-8") {
    const fault = this.fault({ query: stream.query, line: stream.lines++, method });
    if (fault?.how === "mute") return;
    if (fault?.how === "refuse") return response.destroy();
    if (fault?.status) return response.writeHead(fault.status, fault.headers ?? {}).end();
    response.writeHead(200, { "content-type": type, ...headers });
    if (!fault) return response.end(bytes);
    response.flushHeaders();
    response.write(bytes.subarray(0, fault.after), () => {
      if (fault.how === "reset") response.destroy();
      if (fault.how === "end") response.end();
    });
  }
}
