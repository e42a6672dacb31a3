/**
 * @file The settings of sampling: one row says all about one. What is checked here is said beside its box before
 * anything is sent; the server checks again.
 */

/**
 * @typedef {object} Field
 * @property {"temperature"|"top_k"|"top_p"|"min_p"|"presence_penalty"|"frequency_penalty"|"repeat_penalty"|"max_tokens"|"seed"} name as the API has it
 * @property {string} label
 * @property {string} help
 * @property {boolean} whole
 * @property {number} low
 * @property {number} high
 */

/** @type {Field[]} */
export const FIELDS = [
  { name: "temperature", label: "Temperature", help: "0 always takes the likeliest token; higher is more varied", whole: false, low: 0, high: 100 },
  { name: "top_k", label: "Top-k", help: "Choose among the k likeliest tokens; 0 is all", whole: true, low: 0, high: 2 ** 31 - 1 },
  { name: "top_p", label: "Top-p", help: "Choose among tokens that make up this share", whole: false, low: 0, high: 1 },
  { name: "min_p", label: "Min-p", help: "Leave out tokens below this share of the likeliest", whole: false, low: 0, high: 1 },
  { name: "presence_penalty", label: "Presence penalty", help: "Above 0 favours tokens that have not come yet", whole: false, low: -2, high: 2 },
  { name: "frequency_penalty", label: "Frequency penalty", help: "The same, by how often they came", whole: false, low: -2, high: 2 },
  { name: "repeat_penalty", label: "Repeat penalty", help: "Above 1 makes repeated tokens less likely", whole: false, low: 0.01, high: 100 },
  { name: "max_tokens", label: "Max tokens", help: "Longest answer", whole: true, low: 1, high: 2 ** 31 - 1 },
  { name: "seed", label: "Seed", help: "The same seed gives the same answer", whole: true, low: 0, high: 2 ** 32 - 1 },
];

/** Fields that the page fills in itself. */
const OWN = ["messages", "model", "stream", "stream_options", "n"];

/**
 * @param {Field} field
 * @param {string} text
 * @returns {{value: number|null, error: string}} null: left to the server
 */
export function readField(field, text) {
  const trimmed = text.trim();
  if (trimmed === "") return { value: null, error: "" };
  const value = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i.test(trimmed) ? Number(trimmed) : NaN;
  const kind = field.whole ? "a whole number" : "a number";
  if (!Number.isFinite(value) || (field.whole && !Number.isInteger(value))) return { value: null, error: `Must be ${kind}.` };
  if (value < field.low || value > field.high) return { value: null, error: `Must be ${kind} from ${field.low} to ${field.high}.` };
  return { value, error: "" };
}

/**
 * Where JSON goes wrong, in words for people.
 * @param {string} text
 * @returns {{value: any, error: string}}
 */
export function readJson(text) {
  try {
    return { value: JSON.parse(text), error: "" };
  } catch (error) {
    return { value: null, error: `This is not JSON: ${where(text, error instanceof Error ? error.message : String(error))}` };
  }
}

/** @param {string} text @param {string} message the engine's, which names a position or not @returns {string} */
function where(text, message) {
  const position = /position (\d+)/.exec(message);
  if (position === null) return message.replace(/, .*? is not valid JSON$/s, "").replace(/^JSON\.parse: /, "");
  const before = text.slice(0, Number(position[1])).split("\n");
  const what = message.replace(/ in JSON at position.*$/s, "").replace(/, .*? is not valid JSON$/s, "");
  return `${what} (line ${before.length}, column ${before[before.length - 1].length + 1})`;
}

/**
 * @param {string} text further fields of a request as a JSON object; empty is none
 * @returns {{value: Record<string, any>, error: string}}
 */
export function readMore(text) {
  if (text.trim() === "") return { value: {}, error: "" };
  const { value, error } = readJson(text);
  if (error !== "") return { value: {}, error };
  if (!isObject(value)) return { value: {}, error: "Must be a JSON object, as {\"typical_p\": 0.9}." };
  const own = OWN.find((name) => Object.hasOwn(value, name));
  return own === undefined ? { value, error: "" } : { value: {}, error: `The page sets "${own}" itself.` };
}

/**
 * @param {string} text a JSON schema
 * @returns {{value: Record<string, any>|null, error: string}}
 */
export function readSchema(text) {
  if (text.trim() === "") return { value: null, error: "Write a JSON schema, or switch this off." };
  const { value, error } = readJson(text);
  if (error !== "") return { value: null, error };
  return isObject(value) ? { value, error: "" } : { value: null, error: "A schema must be a JSON object, as {\"type\": \"object\"}." };
}

/** @param {unknown} value @returns {boolean} */
export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
