/**
 * @file Fetches one answer: sends, reads the stream into its node, waits where the server says to, can be stopped.
 * @typedef {import("./types.js").Node} Node
 * @typedef {import("./types.js").Conversation} Conversation
 */
import { ApiError, chat } from "./api.js";
import { FIELDS, readMore, readSchema } from "./fields.js";
import { messages } from "./tree.js";

/** How long a busy server is asked again, in ms. */
const PATIENCE = 5 * 60_000;

/**
 * @param {Conversation} conversation
 * @param {string} leaf id of the message to answer
 * @param {import("./prefs.js").Prefs} prefs
 * @param {string|null} model
 * @returns {object} the body of /v1/chat/completions
 */
export function requestBody(conversation, leaf, prefs, model) {
  /** @type {Record<string, any>} */
  const body = { ...readMore(prefs.more).value };
  for (const { name } of FIELDS) if (prefs.sampling[name] !== null) body[name] = prefs.sampling[name];
  if (prefs.sampling.stop.length > 0) body.stop = prefs.sampling.stop;
  if (conversation.constrained) {
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: readSchema(conversation.schema).value, strict: true } };
  }
  if (model !== null) body.model = model;
  return { ...body, messages: messages(conversation, leaf), stream: true, stream_options: { include_usage: true } };
}

export class Answer {
  /**
   * @param {Conversation} conversation
   * @param {Node} node the empty answer that is filled
   * @param {object} body
   * @param {{changed: (answer: Answer) => void}} listener
   */
  constructor(conversation, node, body, listener) {
    this.conversation = conversation;
    this.node = node;
    this.body = body;
    this.listener = listener;
    /** What the answer waits for, in words; "" when it is on its way. */
    this.waiting = "";
    /** Whether a screen reader was told of the wait. */
    this.told = false;
    this.pieces = 0;
    this.started = performance.now();
    this.first = 0;
    this.last = 0;
    this.abort = new AbortController();
    /** @type {Map<number, {name: string, arguments: string}>} */
    this.calls = new Map();
  }

  stop() {
    this.abort.abort();
  }

  /** Tokens a second by the clock, a piece of the stream taken as a token. @returns {number|null} */
  get speed() {
    const seconds = (this.last - this.first) / 1000;
    return this.pieces > 1 && seconds > 0 ? (this.pieces - 1) / seconds : null;
  }

  /** Runs to the end, whatever it is; the node says which. Never raises for what a server or a network does. */
  async run() {
    const { node } = this;
    try {
      await this.#untilServed();
      node.status = "done";
    } catch (error) {
      if (this.abort.signal.aborted) node.status = "stopped";
      else if (error instanceof ApiError) {
        node.status = "failed";
        node.failure = { kind: error.kind, message: error.message };
      } else {
        node.status = "failed";
        node.failure = { kind: "server", message: `The page failed: ${error}` };
        console.error(error);
      }
    }
    this.waiting = "";
    node.stats ??= this.#stats({}, {});
    this.listener.changed(this);
  }

  /** Asks again for as long as the server is busy or a model loads. */
  async #untilServed() {
    for (let attempt = 0; ; attempt++) {
      try {
        await this.#stream();
        return;
      } catch (error) {
        const patient = error instanceof ApiError && (error.kind === "busy" || error.kind === "loading");
        if (!patient || performance.now() - this.started > PATIENCE) throw error;
        await this.#wait(error, error.retryAfter ?? Math.min(2 ** attempt, 15));
      }
    }
  }

  /** @param {ApiError} error @param {number} seconds */
  async #wait(error, seconds) {
    const until = performance.now() + Math.max(seconds, 0.5) * 1000;
    const why = error.kind === "busy" ? "The server is busy" : "The server is getting ready";
    for (let left = until - performance.now(); left > 0; left = until - performance.now()) {
      this.waiting = `${why} (${error.message.replace(/\.$/, "")}). Trying again in ${Math.ceil(left / 1000)} s.`;
      this.listener.changed(this);
      await pause(Math.min(left, 1000), this.abort.signal);
    }
    this.waiting = "";
    this.listener.changed(this);
  }

  async #stream() {
    const { node } = this;
    let usage = {};
    let timings = {};
    for await (const part of chat(this.body, this.abort.signal)) {
      if (part.text || part.thoughts) {
        this.last = performance.now();
        this.first ||= this.last;
        this.pieces += 1;
      }
      node.content += part.text ?? "";
      node.thoughts += part.thoughts ?? "";
      for (const call of part.calls ?? []) this.#addCall(call);
      node.finish = part.finish ?? node.finish;
      usage = part.usage ?? usage;
      timings = part.timings ?? timings;
      this.listener.changed(this);
    }
    node.stats = this.#stats(usage, timings);
  }

  /** @param {any} call a piece of a tool call: its name comes first, its arguments in parts */
  #addCall(call) {
    const at = Number.isInteger(call?.index) ? call.index : 0;
    const known = this.calls.get(at) ?? { name: "", arguments: "" };
    known.name += call?.function?.name ?? "";
    known.arguments += call?.function?.arguments ?? "";
    this.calls.set(at, known);
    this.node.calls = [...this.calls.values()].map((each) => JSON.stringify({ name: each.name, arguments: orText(each.arguments) })).join("\n");
  }

  /**
   * @param {any} usage
   * @param {any} timings as llama-server has them
   * @returns {import("./types.js").Stats}
   */
  #stats(usage, timings) {
    return {
      prompt: count(usage.prompt_tokens),
      completion: count(usage.completion_tokens) ?? (this.pieces || null),
      cached: count(usage.prompt_tokens_details?.cached_tokens),
      perSecond: count(timings.predicted_per_second) ?? this.speed,
      seconds: (performance.now() - this.started) / 1000,
    };
  }
}

/** @param {unknown} value @returns {number|null} */
function count(value) {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : null;
}

/** @param {string} text arguments of a call, which may be cut @returns {any} */
function orText(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** @param {number} ms @param {AbortSignal} signal */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      if (signal.aborted) reject(signal.reason);
      else resolve(undefined);
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
