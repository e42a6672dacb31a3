/**
 * @file Conversations as a file, and back. A file is checked field by field before anything of it is kept: it comes
 * from anywhere.
 * @typedef {import("./types.js").Conversation} Conversation
 * @typedef {import("./types.js").Node} Node
 */
import { h, randomId } from "./dom.js";
import { isObject } from "./fields.js";

const FORMAT = "ggufpy-conversations";
const VERSION = 1;
const LARGEST = 64 * 1024 * 1024;
const LONGEST_TEXT = 4_000_000;
const MOST_MESSAGES = 10_000;
const MOST_CONVERSATIONS = 10_000;

/** @param {Conversation[]} conversations @returns {string} */
export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: VERSION, exported: new Date().toISOString(), conversations }, null, 1);
}

/** @param {string} name of the file @param {string} text */
export function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = h("a", { href: address, download: name });
  link.click();
  // The download reads it after the click has returned.
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** @param {string} title @returns {string} a file name that every system takes */
export function fileName(title) {
  const plain = title.normalize("NFKD").replace(/[^\w]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 40).toLowerCase();
  return `${plain || "conversation"}.json`;
}

/** An import that is refused; the message is one line. */
export class ImportError extends Error {}

/** @param {File} file @returns {Promise<Conversation[]>} */
export async function importedFile(file) {
  if (file.size > LARGEST) throw new ImportError(`the file is larger than ${LARGEST / 1024 / 1024} MB`);
  return imported(await file.text());
}

/**
 * @param {string} text of an exported file
 * @returns {Conversation[]} new objects that hold what was checked and nothing else
 */
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new ImportError("the file is not JSON");
  }
  if (!isObject(file) || file.format !== FORMAT) throw new ImportError("the file does not hold conversations of this page");
  if (file.version !== VERSION) throw new ImportError(`the file has version ${show(file.version)}, and this page reads version ${VERSION}`);
  const list = array(file.conversations, "conversations", MOST_CONVERSATIONS);
  return list.map((each, at) => conversation(each, `conversation ${at + 1}`));
}

/** @param {any} value @param {string} where @returns {Conversation} */
function conversation(value, where) {
  const read = new Reader(value, where);
  /** @type {Map<string, Node>} */
  const known = new Map();
  const result = {
    id: read.id("id"), title: read.text("title", 500), named: read.boolean("named"), created: read.time("created"),
    updated: read.time("updated"), system: read.text("system"), schema: read.text("schema"),
    constrained: read.boolean("constrained"), head: read.orNull("head", () => read.id("head")),
    nodes: array(read.any("nodes"), `${where}: nodes`, MOST_MESSAGES).map((each, at) => message(each, `${where}, message ${at + 1}`, known)),
  };
  read.end();
  if (result.head !== null && !known.has(result.head)) throw new ImportError(`${where}: head is no message of it`);
  return result;
}

/** @param {any} value @param {string} where @param {Map<string, Node>} known the messages before it @returns {Node} */
function message(value, where, known) {
  const read = new Reader(value, where);
  /** @type {Node} */
  const result = {
    id: read.id("id"), parent: read.orNull("parent", () => read.id("parent")), role: read.oneOf("role", ["user", "assistant"]),
    content: read.text("content"), thoughts: read.text("thoughts"), calls: read.text("calls"),
    status: read.oneOf("status", ["done", "stopped", "failed", "streaming"]),
    finish: read.orNull("finish", () => read.text("finish", 100)), failure: read.orNull("failure", () => failure(read.any("failure"), where)),
    model: read.orNull("model", () => read.text("model", 1000)), json: read.boolean("json"),
    stats: read.orNull("stats", () => stats(read.any("stats"), where)), created: read.time("created"),
  };
  read.end();
  if (known.has(result.id)) throw new ImportError(`${where}: its id is another message's`);
  // Parents come first: so there is no circle.
  if (result.parent !== null && !known.has(result.parent)) throw new ImportError(`${where}: parent is no message before it`);
  known.set(result.id, result);
  return result;
}

/** @param {any} value @param {string} where */
function failure(value, where) {
  const read = new Reader(value, `${where}: failure`);
  const result = { kind: read.oneOf("kind", ["network", "key", "busy", "loading", "refused", "server", "cut"]), message: read.text("message", 10_000) };
  read.end();
  return result;
}

/** @param {any} value @param {string} where */
function stats(value, where) {
  const read = new Reader(value, `${where}: stats`);
  const one = (name) => read.orNull(name, () => read.number(name));
  const result = { prompt: one("prompt"), completion: one("completion"), cached: one("cached"), perSecond: one("perSecond"), seconds: one("seconds") };
  read.end();
  return result;
}

/** Reads the fields of one object, each by name; what is missing, odd or unknown is an error that says where. */
class Reader {
  /** @param {any} value @param {string} where */
  constructor(value, where) {
    if (!isObject(value)) throw new ImportError(`${where} is no object`);
    this.value = value;
    this.where = where;
    this.left = new Set(Object.keys(value));
  }

  /** @param {string} name */
  any(name) {
    if (!Object.hasOwn(this.value, name)) throw new ImportError(`${this.where}: ${name} is missing`);
    this.left.delete(name);
    return this.value[name];
  }

  /** @template T @param {string} name @param {boolean} right @param {string} kind @param {T} value @returns {T} */
  #checked(name, right, kind, value) {
    if (!right) throw new ImportError(`${this.where}: ${name} is ${show(value)}, and must be ${kind}`);
    return value;
  }

  /** @param {string} name @param {number} [longest] */
  text(name, longest = LONGEST_TEXT) {
    const value = this.any(name);
    return this.#checked(name, typeof value === "string" && value.length <= longest, `a text of at most ${longest} letters`, value);
  }

  /** @param {string} name */
  id(name) {
    const value = this.any(name);
    return this.#checked(name, typeof value === "string" && /^[\w-]{1,64}$/.test(value), "1 to 64 letters or digits", value);
  }

  /** @param {string} name */
  boolean(name) {
    const value = this.any(name);
    return this.#checked(name, typeof value === "boolean", "true or false", value);
  }

  /** @param {string} name */
  number(name) {
    const value = this.any(name);
    return this.#checked(name, typeof value === "number" && value >= 0, "a number from 0", value);
  }

  /** @param {string} name */
  time(name) {
    const value = this.any(name);
    return this.#checked(name, Number.isInteger(value) && value >= 0 && value <= 8.64e15, "a time in milliseconds", value);
  }

  /** @param {string} name @param {string[]} names @returns {any} */
  oneOf(name, names) {
    const value = this.any(name);
    return this.#checked(name, names.includes(value), names.join(" or "), value);
  }

  /** @param {string} name @param {() => any} read */
  orNull(name, read) {
    return this.any(name) === null ? null : read();
  }

  end() {
    for (const name of this.left) throw new ImportError(`${this.where}: there is no field ${show(name)}`);
  }
}

/** @param {any} value @param {string} where @param {number} most @returns {any[]} */
function array(value, where, most) {
  if (!Array.isArray(value) || value.length > most) throw new ImportError(`${where} must be a list of at most ${most}`);
  return value;
}

/** @param {any} value @returns {string} short, on one line */
function show(value) {
  const text = JSON.stringify(value) ?? "undefined";
  return text.length > 40 ? `${text.slice(0, 39)}…` : text;
}

/**
 * Those that are not here yet. One that is here in other words gets a name of its own: an import changes nothing.
 * @param {Conversation[]} found
 * @param {(id: string) => Conversation|undefined} here
 * @returns {Conversation[]}
 */
export function unknownOnes(found, here) {
  const fresh = [];
  const taken = new Set();
  for (const each of found) {
    const known = here(each.id);
    if (known !== undefined && sameTexts(known, each)) continue;
    if (known !== undefined || taken.has(each.id)) each.id = randomId();
    taken.add(each.id);
    fresh.push(each);
  }
  return fresh;
}

/** @param {Conversation} one @param {Conversation} other */
function sameTexts(one, other) {
  const texts = (conversation) => JSON.stringify(conversation.nodes.map((node) => [node.id, node.parent, node.role, node.content, node.thoughts]));
  return texts(one) === texts(other);
}
