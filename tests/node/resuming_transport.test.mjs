import assert from "node:assert/strict";
import test from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { unbrokenFetch } from "unbroken-fetch";
import { CHAT, DIALECTS, TEXT } from "./resuming_answers.mjs";
import { startServer } from "./resuming_server.mjs";

const BLOCKS = ['data: {"n":1}', 'data: {"n":"🌊"}', "data: [DONE]"];
const WHOLE_TEXT = BLOCKS.map((block) => `${block}\n\n`).join("");
const LINE_BYTES = Buffer.byteLength(": keep-alive\n" + BLOCKS.map((block) => `id: 1\n${block}\n\n`).join(""));
const messages = [{ role: "user", content: "Hello" }];

const question = (more = {}) => ({
  method: "POST",
  headers: { "content-type": "application/json", authorization: "Bearer secret" },
  body: JSON.stringify({ model: "m", stream: true }),
  ...more,
});
const firstLine = (fault) => (asked) => (asked.line === 0 ? fault : null);
const post = (server, fetch, more, query = "") => fetch(`${server.url}/chat/completions${query}`, question(more));

for (const how of ["reset", "end"]) {
  test(`D3: a line that breaks at any byte (${how}) is taken up again`, async (t) => {
    const cutWhereAsked = ({ query, line }) => (line === 0 ? { after: Number(query.get("after")), how } : null);
    const server = await startServer(t, { blocks: BLOCKS, fault: cutWhereAsked });
    const fetch = unbrokenFetch();
    const texts = Array.from({ length: LINE_BYTES }, async (_, after) => {
      const response = await post(server, fetch, {}, `?after=${after}`);
      return response.text();
    });
    for (const [after, text] of (await Promise.all(texts)).entries()) assert.equal(text, WHOLE_TEXT, `after ${after}`);
    const resumed = server.asked("GET");
    assert.equal(resumed.length, LINE_BYTES);
    assert.deepEqual(new Set(resumed.map(({ headers }) => headers["last-event-id"])), new Set(["0", "1", "2"]));
  });
}

for (const { name, blocks, read } of DIALECTS) {
  test(`the SDK never sees that every line of ${name} breaks`, async (t) => {
    const breakInItsSecondBlock = ({ line, method }) => {
      const before = ": keep-alive\n" + `id: 1\n${blocks[line]}\n\n`;
      const after = Buffer.byteLength(before) + "id: 2\ndata".length;
      return line < blocks.length - 1 ? { after, how: method === "GET" ? "end" : "reset" } : null;
    };
    const server = await startServer(t, { blocks, fault: breakInItsSecondBlock });
    const resumptions = [];
    assert.equal(
      await read(server.url, unbrokenFetch({ onResume: (resumption) => resumptions.push(resumption) })),
      TEXT,
    );
    assert.deepEqual(
      resumptions.map(({ offset }) => offset),
      blocks.slice(1).map((_, place) => place + 1),
    );
    assert.ok(
      resumptions.every(
        ({ stream, attempt, cause }) => stream === "stream-1" && attempt === 1 && cause instanceof Error,
      ),
    );
    assert.equal(server.streams.size, 1);
    assert.equal(server.asked("DELETE").length, 0);
  });
}

test("a question has a key of its own, what resumes it the same authorization and nothing of its content", async (t) => {
  const server = await startServer(t, { blocks: CHAT, fault: firstLine({ after: 300, how: "reset" }) });
  await DIALECTS[0].read(server.url, unbrokenFetch());
  const [asked, resumed] = server.requests;
  assert.match(asked.headers["idempotency-key"], /^[0-9a-f-]{36}$/);
  assert.equal(asked.headers["unbroken-durable"], "true");
  assert.equal(resumed.path, "/v1/streams/stream-1");
  assert.equal(resumed.headers.accept, "text/event-stream");
  assert.equal(resumed.headers.authorization, "Bearer secret");
  assert.equal(resumed.body, "");
  for (const name of ["content-type", "idempotency-key", "unbroken-durable"])
    assert.ok(!(name in resumed.headers), name);
});

test("a key of the caller's own is kept", async (t) => {
  const server = await startServer(t, { blocks: CHAT });
  await DIALECTS[0].read(server.url, unbrokenFetch(), { headers: { "Idempotency-Key": "mine" } });
  assert.deepEqual([...server.streams.keys()], ["mine"]);
});

test("a caller who says whether the answer is to be durable is left alone", async (t) => {
  const server = await startServer(t, { blocks: CHAT });
  for (const durable of ["true", "false"]) {
    await DIALECTS[0].read(server.url, unbrokenFetch(), { headers: { "Unbroken-Durable": durable } });
  }
  assert.deepEqual(
    server.requests.map(({ headers }) => [headers["unbroken-durable"], headers["idempotency-key"]]),
    [
      ["true", undefined],
      ["false", undefined],
    ],
  );
});

const NONE_OF_OURS = [
  ["/models", { method: "GET" }],
  ["/embeddings", question()],
  ["/messages/count_tokens", question()],
  ["/responses", question({ headers: { "content-type": "text/plain" } })],
  ["/threads/thread-1/messages", question({ body: '{"role":"user","content":"Hello"}' })],
];

test("what asks for no answer goes through as it is", async () => {
  const seen = [];
  const fetch = unbrokenFetch({ fetch: async (...call) => (seen.push(call), new Response("")) });
  for (const [path, init] of NONE_OF_OURS) await fetch(`http://server/v1${path}`, init);
  assert.equal(seen.length, NONE_OF_OURS.length);
  for (const [place, [path, init]] of NONE_OF_OURS.entries())
    assert.deepEqual(seen[place], [`http://server/v1${path}`, init]);
  assert.ok(seen.every(([, init], place) => init === NONE_OF_OURS[place][1]));
});

test("the response of a server that is not Unbroken is the very same", async (t) => {
  const server = await startServer(t, {
    blocks: BLOCKS,
    isUnbroken: false,
    fault: firstLine({ after: 20, how: "reset" }),
  });
  let given;
  const response = await post(server, unbrokenFetch({ fetch: async (...call) => (given = await fetch(...call)) }));
  assert.equal(response, given);
  await assert.rejects(response.text(), { name: "TypeError", message: "terminated" });
  assert.equal(server.requests.length, 1);
});

test("a server that is not known to be Unbroken is asked once", async () => {
  let asked = 0;
  const refused = new TypeError("fetch failed");
  const fetch = unbrokenFetch({ fetch: () => ((asked += 1), Promise.reject(refused)) });
  await assert.rejects(fetch("http://server/v1/messages", question()), refused);
  assert.equal(asked, 1);
});

for (const status of [401, 404, 410, 416]) {
  test(`where resuming is refused with ${status} the error is that of the cut`, async (t) => {
    const refuse = ({ line }) => (line === 0 ? { after: 20, how: "reset" } : { status });
    const server = await startServer(t, { blocks: BLOCKS, fault: refuse });
    const response = await post(server, unbrokenFetch());
    await assert.rejects(response.text(), { name: "TypeError", message: "terminated" });
    assert.deepEqual(
      server.requests.map(({ method }) => method),
      ["POST", "GET"],
    );
  });
}

test("L1: a response that ends before the answer is an error where it cannot be resumed", async (t) => {
  const refuse = ({ line }) => (line === 0 ? { after: 20, how: "end" } : { status: 404 });
  const server = await startServer(t, { blocks: BLOCKS, fault: refuse });
  const response = await post(server, unbrokenFetch());
  await assert.rejects(response.text(), { name: "CutError", message: "the response ended before the answer did" });
});

test("a server that cannot answer at the moment is asked again", async (t) => {
  const fault = ({ query, line }) => {
    if (line === 0) return { after: 40, how: "reset" };
    return line === 1 ? { status: Number(query.get("status")), headers: { "retry-after-ms": "1" } } : null;
  };
  const server = await startServer(t, { blocks: BLOCKS, fault });
  const resumptions = [];
  const fetch = unbrokenFetch({ onResume: (resumption) => resumptions.push(resumption) });
  const readBehind = async (status) => (await post(server, fetch, {}, `?status=${status}`)).text();
  for (const text of await Promise.all([429, 502, 503, 504].map(readBehind))) assert.equal(text, WHOLE_TEXT);
  assert.deepEqual(
    resumptions.map(({ attempt }) => attempt),
    [2, 2, 2, 2],
  );
});

test("patience ends, and then the error is that of the first cut", async (t) => {
  const fault = ({ line }) => (line === 0 ? { after: 20, how: "reset" } : { status: 503 });
  const server = await startServer(t, { blocks: BLOCKS, fault });
  const response = await post(server, unbrokenFetch({ patience: 500 }));
  await assert.rejects(response.text(), { name: "TypeError", message: "terminated" });
  assert.ok(server.asked("GET").length >= 2);
});

test("a server that wants to be left alone for longer than patience lasts is left alone", async (t) => {
  const refused = { status: 503, headers: { "retry-after": "3600" } };
  const fault = ({ line }) => (line === 0 ? { after: 20, how: "reset" } : refused);
  const server = await startServer(t, { blocks: BLOCKS, fault });
  const response = await post(server, unbrokenFetch());
  await assert.rejects(response.text(), { name: "TypeError", message: "terminated" });
  assert.equal(server.asked("GET").length, 1);
});

test("a server that is down for a while is waited for", async (t) => {
  const server = await startServer(t, { blocks: CHAT, fault: firstLine({ after: 500, how: "reset" }) });
  let refusals = 0;
  const fetchFromServerThatComesBack = async (url, init) => {
    if (init.method === "GET" && refusals === 0) await server.stop();
    try {
      return await fetch(url, init);
    } catch (error) {
      refusals += 1;
      if (refusals === 2) await server.start();
      throw error;
    }
  };
  const resuming = unbrokenFetch({ fetch: fetchFromServerThatComesBack });
  assert.equal(await DIALECTS[0].read(server.url, resuming), TEXT);
  assert.equal(refusals, 2);
});

test("a line on which nothing comes any more is a cut line, and so is one on which nothing comes at all", async (t) => {
  const silences = [{ after: 40, how: "stall" }, { how: "mute" }, { after: 0, how: "stall" }];
  const server = await startServer(t, { blocks: BLOCKS, fault: ({ line }) => silences[line] ?? null });
  const causes = [];
  const response = await post(
    server,
    unbrokenFetch({ silence: 200, onResume: ({ cause }) => causes.push(cause.message) }),
  );
  assert.equal(await response.text(), WHOLE_TEXT);
  assert.deepEqual(causes, ["nothing came for 0.2 s", "nothing came for 0.2 s"]);
});

const serve = (nextBody, options) => {
  const headers = { "content-type": "text/event-stream", "unbroken-stream": "s" };
  return unbrokenFetch({ ...options, fetch: async (_, { method }) => new Response(nextBody(method), { headers }) });
};

test("L3: blocks that come a second time are dropped, and one that is missing is asked for", async () => {
  const bodies = ["1\ndata: 1\n\nid: 3\ndata: 3\n\n", "1\ndata: 1\n\nid: 2\ndata: 2\n\n", "3\ndata: [DONE]\n\n"];
  const response = await serve(() => `id: ${bodies.shift()}`)("http://s/v1/messages", question());
  assert.equal(await response.text(), "data: 1\n\ndata: 2\n\ndata: [DONE]\n\n");
});

test("L3: a block that stays missing is an error in the end", async () => {
  const response = await serve(() => "id: 3\ndata: 3\n\n", { patience: 200 })("http://s/v1/messages", question());
  await assert.rejects(response.text(), { name: "ProtocolError", message: "stream s: block 3 came where 1 was due" });
});

test("lines that bring half a block each are no progress", async () => {
  const response = await serve(() => 'id: 1\ndata: {"n', { patience: 200 })("http://s/v1/messages", question());
  await assert.rejects(response.text(), { name: "CutError" });
});

test("who leaves while the line is taken up again leaves that one as well", async () => {
  let second;
  const isClosed = new Promise((resolve) => (second = new ReadableStream({ cancel: () => resolve("closed") })));
  const leaving = new AbortController();
  const bodies = {
    POST: () => "id: 1\ndata: 1\n\n",
    GET: () => (leaving.abort(), second),
    DELETE: () => "{}",
  };
  const fetch = serve((method) => bodies[method]());
  const response = await fetch("http://s/v1/messages", question({ signal: leaving.signal }));
  await assert.rejects(response.text(), { name: "AbortError" });
  assert.equal(await isClosed, "closed");
});

test("L3: an answer without numbers is counted", async () => {
  const bodies = ["data: 1\n\nevent: ping\ndata: {}\n\ndata: 2\n\n", "id: 3\ndata: [DONE]\n\n"];
  const response = await serve(() => bodies.shift())("http://s/v1/messages", question());
  assert.equal(await response.text(), "data: 1\n\nevent: ping\ndata: {}\n\ndata: 2\n\ndata: [DONE]\n\n");
});

const CANCELLED = {
  "a break": async (stream) => {
    for await (const _ of stream) break;
  },
  "an abort": async (stream) => {
    for await (const _ of stream) stream.controller.abort();
  },
  "an abort before the first read": async (stream) => stream.controller.abort(),
};

for (const [name, leave] of Object.entries(CANCELLED)) {
  test(`D5: ${name} cancels the answer once`, async (t) => {
    const server = await startServer(t, { blocks: CHAT, fault: () => ({ after: 600, how: "stall" }) });
    const client = new OpenAI({ baseURL: server.url, apiKey: "secret", fetch: unbrokenFetch() });
    await leave(await client.chat.completions.create({ model: "m", messages, stream: true }));
    await server.waitUntil(() => server.asked("DELETE").length > 0);
    await client.chat.completions
      .create({ model: "m", messages, stream: true })
      .then((stream) => stream.controller.abort());
    await server.waitUntil(() => server.asked("DELETE").length > 1);
    assert.deepEqual(
      server.asked("DELETE").map(({ path }) => path),
      ["/v1/streams/stream-1", "/v1/streams/stream-2"],
    );
    assert.equal(server.asked("GET").length, 0);
  });
}

test("D5: an abort of Anthropic's message stream cancels the answer", async (t) => {
  const server = await startServer(t, { blocks: DIALECTS[2].blocks, fault: () => ({ after: 700, how: "stall" }) });
  const client = new Anthropic({ baseURL: server.url.replace("/v1", ""), apiKey: "secret", fetch: unbrokenFetch() });
  const stream = client.messages.stream({ model: "m", max_tokens: 9, messages });
  stream.on("text", () => stream.abort());
  await assert.rejects(stream.finalMessage(), Anthropic.APIUserAbortError);
  await server.waitUntil(() => server.streams.values().next().value.state === "cancelled");
});

test("who leaves behind the end of an answer cancels nothing", async (t) => {
  const server = await startServer(t, { blocks: BLOCKS });
  const leaving = new AbortController();
  const response = await post(server, unbrokenFetch(), { signal: leaving.signal });
  const reader = response.body.getReader();
  while (!(await reader.read()).done);
  leaving.abort();
  await reader.cancel();
  await post(server, unbrokenFetch()).then((other) => other.text());
  assert.equal(server.asked("DELETE").length, 0);
});

test("D9: who leaves a background response lets it go on", async (t) => {
  const server = await startServer(t, { blocks: DIALECTS[1].blocks, fault: () => ({ after: 600, how: "stall" }) });
  const client = new OpenAI({ baseURL: server.url, apiKey: "secret", fetch: unbrokenFetch() });
  for await (const _ of await client.responses.create({ model: "m", input: "Hello", stream: true, background: true }))
    break;
  await client.responses
    .create({ model: "m", input: "Hello", stream: true })
    .then((stream) => stream.controller.abort());
  await server.waitUntil(() => server.asked("DELETE").length > 0);
  assert.deepEqual(
    server.asked("DELETE").map(({ path }) => path),
    ["/v1/streams/stream-2"],
  );
});

test("an abort ends the wait for a server that is down, with the abort's reason", async (t) => {
  const server = await startServer(t, { blocks: BLOCKS, fault: firstLine({ after: 20, how: "reset" }) });
  const leaving = new AbortController();
  const fetchWithoutReturn = (url, init) => {
    if (init.method === "POST") return fetch(url, init);
    leaving.abort(new Error("enough"));
    return Promise.reject(new TypeError("fetch failed"));
  };
  const response = await post(server, unbrokenFetch({ fetch: fetchWithoutReturn }), { signal: leaving.signal });
  await assert.rejects(response.text(), { message: "enough" });
});

const WHOLE = {
  id: "stream-1",
  object: "chat.completion",
  model: "m",
  choices: [{ index: 0, message: { content: TEXT } }],
};

test("D8: an answer in one piece that was cut is asked for again under its key", async (t) => {
  const fault = ({ line }) => [{ after: 30, how: "reset" }, { status: 503 }, { after: 0, how: "reset" }][line] ?? null;
  const server = await startServer(t, { whole: WHOLE, fault });
  const resumptions = [];
  const fetch = unbrokenFetch({ onResume: (resumption) => resumptions.push(resumption) });
  const client = new OpenAI({ baseURL: server.url, apiKey: "secret", fetch, maxRetries: 0 });
  const answer = await client.chat.completions.create({ model: "m", messages });
  assert.equal(answer.choices[0].message.content, TEXT);
  assert.equal(server.asked("POST").length, 4);
  assert.equal(server.streams.size, 1);
  assert.deepEqual(
    resumptions.map(({ stream, offset, attempt }) => [stream, offset, attempt]),
    [["stream-1", 0, 3]],
  );
});

test("D8: a question that a known server did not hear is asked again, under one key", async (t) => {
  const server = await startServer(t, { blocks: BLOCKS });
  const keys = [];
  const failures = [null, new TypeError("fetch failed"), new TypeError("fetch failed")];
  const fetchWithFailures = (url, init) => {
    keys.push(init.headers.get("idempotency-key"));
    const failure = failures.shift();
    return failure ? Promise.reject(failure) : fetch(url, init);
  };
  const resuming = unbrokenFetch({ fetch: fetchWithFailures });
  for (const _ of [1, 2]) assert.equal(await (await post(server, resuming)).text(), WHOLE_TEXT);
  assert.equal(keys.length, 4);
  assert.equal(new Set(keys.slice(1)).size, 1);
  assert.equal(new Set(keys).size, 2);
});

test("L6: a question that the SDK asks again is the same question", async (t) => {
  const server = await startServer(t, { blocks: CHAT, fault: firstLine({ how: "refuse" }) });
  const client = new OpenAI({ baseURL: server.url, apiKey: "secret", fetch: unbrokenFetch(), maxRetries: 1 });
  const ask = async () => {
    for await (const _ of await client.chat.completions.create({ model: "m", messages, stream: true }));
  };
  await ask();
  assert.equal(server.asked("POST").length, 2);
  assert.equal(server.streams.size, 1);
  await ask(); // but what a program asks twice are two questions
  assert.equal(server.streams.size, 2);
});

test("L6: a time limit of the SDK before the answer has begun does not begin another one", async (t) => {
  const server = await startServer(t, { whole: WHOLE, fault: firstLine({ how: "mute" }) });
  const client = new OpenAI({ baseURL: server.url, apiKey: "secret", fetch: unbrokenFetch(), maxRetries: 1 });
  const answer = await client.chat.completions.create({ model: "m", messages }, { timeout: 300 });
  assert.equal(answer.choices[0].message.content, TEXT);
  assert.equal(server.streams.size, 1);
});

test("an abort while an answer in one piece comes cancels it", async (t) => {
  const server = await startServer(t, { whole: WHOLE, fault: () => ({ after: 5, how: "stall" }) });
  const leaving = new AbortController();
  const fetchThenLeave = async (url, init) => {
    const response = await fetch(url, init);
    if (init.method === "POST") setImmediate(() => leaving.abort());
    return response;
  };
  const asked = post(server, unbrokenFetch({ fetch: fetchThenLeave }), {
    signal: leaving.signal,
    body: '{"model":"m"}',
  });
  await assert.rejects(asked, { name: "AbortError" });
  await server.waitUntil(() => server.asked("DELETE").length > 0);
});

test("a response keeps its url, status and headers, and its copies do", async (t) => {
  const server = await startServer(t, { blocks: BLOCKS });
  const response = await post(server, unbrokenFetch());
  const copy = response.clone();
  for (const { url, ok, status, statusText, type, redirected, headers } of [response, copy]) {
    assert.deepEqual([url, ok, status, statusText], [`${server.url}/chat/completions`, true, 200, "OK"]);
    assert.deepEqual([type, redirected, headers.get("unbroken-stream")], ["basic", false, "stream-1"]);
  }
  assert.deepEqual([await response.text(), await copy.text()], [WHOLE_TEXT, WHOLE_TEXT]);
});

test("a Request is understood as well as an address", async (t) => {
  const server = await startServer(t, { blocks: BLOCKS, fault: firstLine({ after: 40, how: "reset" }) });
  const response = await unbrokenFetch()(new Request(`${server.url}/chat/completions`, question()));
  assert.equal(await response.text(), WHOLE_TEXT);
  assert.equal(server.requests[1].headers.authorization, "Bearer secret");
});

test("L9: a reader who does not read holds the server back", async () => {
  let given = 0;
  const endless = new ReadableStream(
    {
      pull: (sink) => sink.enqueue(new TextEncoder().encode(`id: ${++given}\ndata: {}\n\n`)),
    },
    { highWaterMark: 0 },
  );
  const headers = { "content-type": "text/event-stream", "unbroken-stream": "s" };
  const fetch = unbrokenFetch({ fetch: async () => new Response(endless, { headers }) });
  const reader = (await fetch("http://s/v1/messages", question())).body.getReader();
  for (const expected of [1, 2, 3]) {
    await reader.read();
    assert.equal(given, expected);
  }
});
