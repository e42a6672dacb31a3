/**
 * @file Keeps conversations in the browser (IndexedDB). Several tabs may be open: a save joins what another tab has
 * added in the meantime, and tells the others. What cannot be written any more while a page closes goes to a journal
 * in localStorage, which is synchronous, and is joined when the page opens again.
 * @typedef {import("./types.js").Conversation} Conversation
 * @typedef {import("./types.js").Node} Node
 */
import { isObject } from "./fields.js";

const NAME = "ggufpy";
const TABLE = "conversations";
const JOURNAL = "ggufpy.journal";

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {IDBTransaction} transaction @returns {Promise<void>} when what was written is kept */
function completed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("the browser gave up writing"));
  });
}

/** @returns {Promise<IDBDatabase>} */
function open() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  return result(request);
}

/**
 * Messages of both; of one that both have, the one that is further on. The rest is taken from `newer`.
 * @param {Conversation} older
 * @param {Conversation} newer
 * @returns {Conversation}
 */
export function joined(older, newer) {
  const nodes = new Map(older.nodes.map((node) => [node.id, node]));
  for (const node of newer.nodes) {
    const known = nodes.get(node.id);
    if (known === undefined || !furtherOn(known, node)) nodes.set(node.id, node);
  }
  // Parents still come first: in each of the two they do, and a message never changes its parent.
  return { ...newer, nodes: [...nodes.values()] };
}

/** @param {Node} one @param {Node} other */
function furtherOn(one, other) {
  return other.status === "streaming" && (one.status !== "streaming" || one.content.length + one.thoughts.length > other.content.length + other.thoughts.length);
}

export class Store {
  /** @param {IDBDatabase|null} database null keeps nothing @param {(id: string) => void} changed another tab wrote */
  constructor(database, changed) {
    this.database = database;
    this.channel = "BroadcastChannel" in globalThis ? new BroadcastChannel(NAME) : null;
    if (this.channel !== null) this.channel.onmessage = (event) => changed(String(event.data));
    // A later version of the page in another tab may need to change the tables.
    if (database !== null) database.onversionchange = () => database.close();
  }

  /** @param {(id: string) => void} changed @returns {Promise<Store>} */
  static async open(changed) {
    try {
      return new Store(await open(), changed);
    } catch {
      return new Store(null, changed);
    }
  }

  get keeps() {
    return this.database !== null;
  }

  /** @returns {Promise<Conversation[]>} newest first */
  async all() {
    if (this.database === null) return [];
    await this.#readJournal();
    const found = await result(this.database.transaction(TABLE).objectStore(TABLE).getAll());
    return found.sort((a, b) => b.updated - a.updated);
  }

  /** @param {string} id @returns {Promise<Conversation|undefined>} */
  async get(id) {
    return this.database === null ? undefined : result(this.database.transaction(TABLE).objectStore(TABLE).get(id));
  }

  /**
   * Writes a conversation and leaves in it what another tab had added.
   * @param {Conversation} conversation
   * @param {boolean} [tell] whether other tabs are told
   */
  async save(conversation, tell = true) {
    if (this.database === null) return;
    const transaction = this.database.transaction(TABLE, "readwrite");
    const done = completed(transaction);
    const table = transaction.objectStore(TABLE);
    const before = await result(table.get(conversation.id));
    table.put(before === undefined ? conversation : joined(withoutLost(before, conversation), conversation));
    await done;
    if (tell) this.channel?.postMessage(conversation.id);
  }

  /** @param {Conversation[]} conversations all of them or, where one cannot be written, none */
  async saveNew(conversations) {
    if (this.database === null) return;
    const transaction = this.database.transaction(TABLE, "readwrite");
    const done = completed(transaction);
    for (const conversation of conversations) transaction.objectStore(TABLE).add(conversation);
    await done;
    this.channel?.postMessage("");
  }

  /** @param {string} id */
  async remove(id) {
    if (this.database === null) return;
    const transaction = this.database.transaction(TABLE, "readwrite");
    const done = completed(transaction);
    transaction.objectStore(TABLE).delete(id);
    await done;
    this.channel?.postMessage(id);
  }

  async removeAll() {
    if (this.database === null) return;
    const transaction = this.database.transaction(TABLE, "readwrite");
    const done = completed(transaction);
    transaction.objectStore(TABLE).clear();
    await done;
    this.channel?.postMessage("");
  }

  /** Notes answers that are on their way while the page closes. @param {{id: string, node: Node}[]} entries */
  journal(entries) {
    if (this.database === null || entries.length === 0) return;
    try {
      localStorage.setItem(JOURNAL, JSON.stringify(entries));
    } catch {
      // Full: what was saved while the answer came is there all the same.
    }
  }

  async #readJournal() {
    let entries;
    try {
      entries = JSON.parse(localStorage.getItem(JOURNAL) ?? "[]");
      localStorage.removeItem(JOURNAL);
    } catch {
      return;
    }
    for (const { id, node } of Array.isArray(entries) ? entries.filter((entry) => isObject(entry)) : []) {
      const known = await this.get(String(id));
      const at = known?.nodes.findIndex((each) => each.id === node?.id) ?? -1;
      if (at < 0 || known.nodes[at].content.length > String(node.content).length) continue;
      known.nodes[at] = { ...known.nodes[at], content: String(node.content), thoughts: String(node.thoughts) };
      await this.save(known, false);
    }
  }
}

/**
 * What was kept, without attempts that the page has dropped since: answers that ended with nothing.
 * @param {Conversation} before
 * @param {Conversation} now
 * @returns {Conversation}
 */
function withoutLost(before, now) {
  const here = new Set(now.nodes.map((node) => node.id));
  const nodes = before.nodes.filter((node) => here.has(node.id) || node.status === "done" || node.content !== "" || node.thoughts !== "");
  return { ...before, nodes };
}
