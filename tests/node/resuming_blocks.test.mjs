import assert from "node:assert/strict";
import test from "node:test";
import { BlockSplitter, isCounted, isTerminal } from "../../js/src/blocks.js";

const CASES = {
  "line feeds": [
    "id: 1\ndata: one\n\nid: 2\ndata: two\n\n",
    [
      [1, "data: one\n\n"],
      [2, "data: two\n\n"],
    ],
  ],
  "carriage returns": [
    "data: one\r\rdata: two\r\r",
    [
      [null, "data: one\n\n"],
      [null, "data: two\n\n"],
    ],
  ],
  both: [
    "data: one\r\n\r\ndata: two\r\n\r\n",
    [
      [null, "data: one\n\n"],
      [null, "data: two\n\n"],
    ],
  ],
  "a mixture": [
    "data: one\n\r\ndata: two\r\n\rdata: three\r\r\n",
    [
      [null, "data: one\n\n"],
      [null, "data: two\n\n"],
      [null, "data: three\n\n"],
    ],
  ],
  "a byte order mark": [
    "\ufeffdata: one\n\ndata: \ufefftwo\n\n",
    [
      [null, "data: one\n\n"],
      [null, "data: \ufefftwo\n\n"],
    ],
  ],
  "several lines of data": ["event: e\ndata: one\ndata: two\n\n", [[null, "event: e\ndata: one\ndata: two\n\n"]]],
  comments: [
    ": keep-alive\ndata: one\n: keep-alive\n\n: ping\n\ndata: two\n\n",
    [
      [null, "data: one\n\n"],
      [null, "data: two\n\n"],
    ],
  ],
  "blocks without data": ["retry: 5\n\nid: 7\n\nevent: e\n\ndata: one\n\n", [[null, "data: one\n\n"]]],
  "fields of a block that is none of the SDKs' business": ["id: 7\nretry: 5\ndata: one\n\n", [[7, "data: one\n\n"]]],
  "fields that nobody knows": ["mood: good\ndata\n\n", [[null, "mood: good\ndata\n\n"]]],
  "characters that look like line ends": ["data: 1\u2028\u0085\v\f2\n\n", [[null, "data: 1\u2028\u0085\v\f2\n\n"]]],
  "characters of four bytes": ["id:3\ndata:🌊ö\n\n", [[3, "data:🌊ö\n\n"]]],
  "an id that is no offset": ["id: abc\ndata: one\n\n", [[null, "data: one\n\n"]]],
  "half a block": ["data: one\n\ndata: tw", [[null, "data: one\n\n"]]],
};

const read = (...pieces) => {
  const splitter = new BlockSplitter();
  return pieces.flatMap((piece) => splitter.feed(piece)).map(({ id, text }) => [id, text]);
};

for (const [name, [text, blocks]] of Object.entries(CASES)) {
  test(`S4: ${name}, cut at every byte`, () => {
    const bytes = new TextEncoder().encode(text);
    for (let cut = 0; cut <= bytes.length; cut++) {
      assert.deepEqual(read(bytes.subarray(0, cut), bytes.subarray(cut)), blocks, `cut at ${cut}`);
    }
    assert.deepEqual(read(...Array.from(bytes, (byte) => Uint8Array.of(byte))), blocks);
  });
}

test("L9: what has no end is an error and not memory", () => {
  const splitter = new BlockSplitter(100);
  const line = new TextEncoder().encode("data: 34567890\n");
  assert.throws(() => Array.from({ length: 8 }, () => splitter.feed(line)), {
    name: "ProtocolError",
    message: /100 bytes/,
  });
});

test("L9: any number of comments before a block is no block that is too large", () => {
  const splitter = new BlockSplitter(100);
  for (let count = 0; count < 50; count++) splitter.feed(new TextEncoder().encode(": keep-alive\n"));
  assert.equal(splitter.feed(new TextEncoder().encode("data: 1\n\n")).length, 1);
});

const block = (text) => new BlockSplitter().feed(new TextEncoder().encode(`${text}\n\n`))[0];

const ENDS = [
  "data: [DONE]",
  'data: {"error":{"message":"no"}}',
  'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}',
  'event: message_stop\ndata: {"type":"message_stop"}',
  'event: response.completed\ndata: {"type":"response.completed"}',
  'event: response.failed\ndata: {"type":"response.failed"}',
  'data: {"type":"response.incomplete"}',
];
const NO_ENDS = [
  'data: {"choices":[{"delta":{"content":"[DONE]"}}]}',
  'data: {"choices":[{"delta":{"content":"\\"error\\""}}]}',
  'data: {"choices":[],"error":null}',
  'event: response.created\ndata: {"type":"response.created","response":{"error":{"code":"no"}}}',
  'data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\\"error\\":1}"}}]}}]}',
  'data: {"error"',
  "data: ",
];

test("L1: an end is known from any other block", () => {
  for (const text of ENDS) assert.ok(isTerminal(block(text)), text);
  for (const text of NO_ENDS) assert.ok(!isTerminal(block(text)), text);
});

test("L3: a ping is no offset unless it has one", () => {
  assert.ok(!isCounted(block('event: ping\ndata: {"type":"ping"}')));
  assert.ok(isCounted(block('id: 4\nevent: ping\ndata: {"type":"ping"}')));
  assert.ok(isCounted(block("data: {}")));
});
