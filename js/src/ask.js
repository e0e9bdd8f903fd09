import { Answer, cancelStream } from "./answer.js";
import { pause } from "./line.js";
import {
  discard,
  isEventStream,
  isOfUnbroken,
  isPassing,
  readRetryAfter,
  readWhole,
  streamOf,
  withBody,
} from "./response.js";
import { Trouble } from "./trouble.js";

/**
 * Asks a question, again under its key where the line to a server breaks that is known to keep keys (D8).
 * @param {import("./question.js").Question} question
 * @param {import("./answer.js").Settings} settings
 * @param {import("./memory.js").Memory} memory
 * @returns {Promise<Response>}
 */
export async function ask(question, settings, memory) {
  const lostSince = memory.identify(question);
  const trouble = new Trouble(settings.patience, lostSince);
  /** @type {string | null} */
  let stream = null; // as far as a response has named it
  for (;;) {
    const { response, answer, failure } = await askOnce(question, settings);
    if (response && isOfUnbroken(response)) memory.meet(question.origin);
    const named = response && streamOf(response);
    stream = named ?? stream;
    if (answer !== null && (named !== null || !trouble.isOn || !isPassing(answer))) {
      if (named === null && isPassing(answer)) memory.lose(question, lostSince ?? performance.now());
      if (named !== null && trouble.isOn) settings.onResume(trouble.overcome(named, 0, performance.now()));
      return answer;
    }
    const asked = answer ? readRetryAfter(answer, Date.now()) : 0;
    discard(answer);
    try {
      question.signal?.throwIfAborted();
      if (!memory.knows(question.origin)) throw failure;
      trouble.begin(failure, performance.now());
      await pause(trouble.nextDelay(performance.now(), Math.random(), asked), question.signal);
    } catch (error) {
      if (question.signal?.aborted && stream !== null) void cancelStream(question, stream, settings);
      else memory.lose(question, lostSince ?? performance.now());
      throw error;
    }
  }
}

/**
 * @typedef {object} Outcome
 * @property {Response | null} response what the server sent, null if the line broke before
 * @property {Response | null} answer what the caller is to get, null if the line broke
 * @property {unknown} failure what broke the line
 */

/**
 * @param {import("./question.js").Question} question
 * @param {import("./answer.js").Settings} settings
 * @returns {Promise<Outcome>}
 */
async function askOnce(question, settings) {
  let response = null;
  try {
    response = await settings.fetch(question.url, question.init);
    const stream = streamOf(response);
    if (stream === null || !response.ok || !response.body) return { response, answer: response, failure: null };
    const body = isEventStream(response)
      ? new Answer(question, stream, response.body, settings).body()
      : await readWhole(response.body);
    return { response, answer: withBody(response, body), failure: null };
  } catch (failure) {
    return { response, answer: null, failure };
  }
}
