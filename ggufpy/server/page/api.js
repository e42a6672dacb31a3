/**
 * @file Talks with the server that the page came from. Addresses are relative to the page, so that it also works
 * behind a proxy that serves it in a folder.
 * @typedef {import("./types.js").Model} Model
 */
import { events } from "./sse.js";

/** @typedef {"network"|"key"|"busy"|"loading"|"refused"|"server"|"cut"} Kind */

export class ApiError extends Error {
  /**
   * @param {Kind} kind
   * @param {string} message
   * @param {number|null} [retryAfter] seconds after which the server wants to be asked again
   */
  constructor(kind, message, retryAfter = null) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter;
  }
}

const KEPT = "ggufpy.key";
let key = kept();

/** @returns {string|null} the key that this browser keeps */
function kept() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null;
  }
}

export function hasKey() {
  return key !== null;
}

/**
 * @param {string|null} value null forgets the key
 * @param {boolean} keep whether it outlives this tab
 */
export function setKey(value, keep) {
  key = value;
  try {
    if (value !== null && keep) localStorage.setItem(KEPT, value);
    else localStorage.removeItem(KEPT);
  } catch {
    // Storage is closed to this page: the key lasts as long as the tab.
  }
}

/**
 * @param {string} path relative, as "v1/models"
 * @param {{body?: object, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>} with a status of 200 to 299
 */
async function request(path, { body, signal } = {}) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    // A character in the key that no header may hold is refused before anything is sent.
    if (key !== null && !/^[\x20-\x7e]*$/.test(key)) throw new ApiError("key", "The API key holds characters that a key cannot have.");
    throw new ApiError("network", "The server does not answer.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** @param {Response} response @returns {Promise<ApiError>} */
async function refusal(response) {
  const message = errorMessage(await response.text().catch(() => "")) || `The server answered with status ${response.status}.`;
  const { status } = response;
  if (status === 401) return new ApiError("key", message);
  if (status === 429) return new ApiError("busy", message, retryAfter(response));
  if (status === 503) return new ApiError("loading", message, retryAfter(response));
  return new ApiError(status < 500 ? "refused" : "server", message);
}

/** @param {Response} response @returns {number|null} seconds, from a number or a date */
function retryAfter(response) {
  const value = response.headers.get("Retry-After");
  if (value === null) return null;
  const seconds = /^\d+$/.test(value.trim()) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0), 300) : null;
}

/** @param {string} text the body of an error @returns {string} a line for people, or "" */
function errorMessage(text) {
  try {
    const { error, detail } = JSON.parse(text);
    return [error?.message, error, detail].find((part) => typeof part === "string" && part !== "") ?? "";
  } catch {
    return text.trimStart().startsWith("<") ? "" : text.trim().split("\n", 1)[0].slice(0, 300);
  }
}

/** @param {Response} response @returns {Promise<any>} */
async function json(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError("server", "The server answered with something that is no JSON.");
  }
}

/** @returns {Promise<Model[]>} */
export async function models() {
  const answer = await json(await request("v1/models"));
  if (!Array.isArray(answer?.data)) throw new ApiError("server", "The server's list of models cannot be read.");
  return answer.data.filter((model) => typeof model?.id === "string");
}

/**
 * What the server says of a model: its context and its defaults; empty where it says nothing.
 * @param {string|null} model
 * @returns {Promise<{context: number|null, defaults: Record<string, any>}>}
 */
export async function properties(model) {
  try {
    const query = model === null ? "" : `?model=${encodeURIComponent(model)}`;
    const given = (await json(await request(`props${query}`)))?.default_generation_settings;
    const context = Number.isInteger(given?.n_ctx) && given.n_ctx > 0 ? given.n_ctx : null;
    return { context, defaults: given?.params ?? {} };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return { context: null, defaults: {} };
  }
}

/**
 * @typedef {{text?: string, thoughts?: string, calls?: any[], finish?: string, usage?: any, timings?: any}} Part
 */

/**
 * Streams an answer.
 * @param {object} body of /v1/chat/completions
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Part>}
 */
export async function* chat(body, signal) {
  const response = await request("v1/chat/completions", { body, signal });
  let ended = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const part = readChunk(data);
      ended ||= part.finish !== undefined;
      yield part;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError("cut", "The connection was lost in the middle of the answer.");
  }
  if (!ended) throw new ApiError("cut", "The server ended the answer before it was complete.");
}

/** @param {string} data @returns {Part} */
function readChunk(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ApiError("server", "The server sent a part of the answer that is no JSON.");
  }
  if (chunk?.error) throw new ApiError("server", errorMessage(data) || "The server failed in the middle of the answer.");
  const choice = chunk?.choices?.[0];
  const delta = choice?.delta ?? {};
  return {
    text: typeof delta.content === "string" ? delta.content : undefined,
    thoughts: typeof delta.reasoning_content === "string" ? delta.reasoning_content : undefined,
    calls: Array.isArray(delta.tool_calls) ? delta.tool_calls : undefined,
    finish: typeof choice?.finish_reason === "string" ? choice.finish_reason : undefined,
    usage: chunk?.usage ?? undefined,
    timings: chunk?.timings ?? undefined,
  };
}
