/**
 * @file The conversations of this browser, as the page holds them: which is shown, and when they are written.
 * @typedef {import("./types.js").Conversation} Conversation
 * @typedef {import("./answer.js").Answer} Answer
 */
import { ask, toast } from "./dialogs.js";
import { Store } from "./store.js";
import { download, exported, fileName, importedFile, ImportError, unknownOnes } from "./transfer.js";
import { newConversation } from "./tree.js";

/** How long what came of an answer may be unwritten, in ms. */
const SOON = 700;

export class Library {
  /** @param {{changed: () => void, live: (id: string) => boolean}} listener */
  constructor(listener) {
    this.listener = listener;
    /** Newest first. @type {Conversation[]} */
    this.conversations = [];
    this.current = newConversation();
    /** @type {Map<string, number>} */
    this.timers = new Map();
    this.failed = false;
  }

  /** @param {string} id of the conversation to show, "" for a new one */
  async start(id) {
    this.store = await Store.open((changed) => this.elsewhere(changed));
    this.conversations = await this.store.all();
    this.open(id);
  }

  get keeps() {
    return this.store.keeps;
  }

  /** The id of the conversation that is shown, "" while it is not among those that are kept. */
  get address() {
    return this.find(this.current.id) === undefined ? "" : this.current.id;
  }

  /** @param {string} id @returns {Conversation|undefined} */
  find(id) {
    return this.conversations.find((each) => each.id === id);
  }

  /** @param {string} id one that is not there begins a new conversation */
  open(id) {
    this.current = this.find(id) ?? newConversation();
  }

  /** @param {Conversation} conversation now in the list, at its place */
  add(conversation) {
    if (this.find(conversation.id) === undefined) this.conversations.push(conversation);
    this.conversations.sort((a, b) => b.updated - a.updated);
  }

  /** @param {Conversation} conversation */
  async save(conversation) {
    clearTimeout(this.timers.get(conversation.id));
    this.timers.delete(conversation.id);
    // One that was deleted while its answer came stays deleted.
    if (this.find(conversation.id) === undefined) return;
    try {
      await this.store.save(conversation, !this.listener.live(conversation.id));
      this.failed = false;
    } catch (error) {
      if (!this.failed) toast(`The browser could not save this conversation (${nameOf(error)}). Export it, or delete others.`);
      this.failed = true;
    }
  }

  /** @param {Conversation} conversation */
  saveSoon(conversation) {
    if (this.timers.has(conversation.id)) return;
    this.timers.set(conversation.id, setTimeout(() => this.save(conversation), SOON));
  }

  /** The system prompt or the schema has changed. */
  saveOptions() {
    const { current } = this;
    if (this.address === "" && current.system.trim() === "" && current.schema.trim() === "") return;
    if (this.address === "") {
      this.add(current);
      this.listener.changed();
    }
    this.saveSoon(current);
  }

  /** @param {Answer[]} answers that are on their way while the page may close */
  journal(answers) {
    this.store?.journal(answers.map(({ conversation, node }) => ({ id: conversation.id, node })));
  }

  /** Another tab has written. @param {string} id "" is many */
  async elsewhere(id) {
    // What is typed here and not written yet is not lost to what was written there.
    for (const pending of [...this.timers.keys()]) {
      const conversation = this.find(pending);
      if (conversation !== undefined) await this.save(conversation);
    }
    const stored = await this.store.all();
    const mine = this.conversations.filter((each) => this.listener.live(each.id));
    this.conversations = stored.map((each) => mine.find((other) => other.id === each.id) ?? sameNodes(this.find(each.id), each));
    const now = this.find(this.current.id);
    // One that is not kept yet is this tab's own; one that another tab deleted begins anew.
    if (now !== undefined) this.current = now;
    else if (id === this.current.id || id === "") this.current = this.current.nodes.length > 0 ? newConversation() : this.current;
    this.listener.changed();
  }

  /** @param {Conversation} conversation */
  async rename(conversation) {
    const given = await ask({ title: "Rename the conversation", text: "", yes: "Rename", field: { label: "Title", value: conversation.title } });
    if (given === null) return;
    conversation.title = given.text.slice(0, 200);
    conversation.named = true;
    this.listener.changed();
    await this.save(conversation);
  }

  /** @param {Conversation} conversation @returns {Promise<string|null>} id of its neighbour in the list */
  async remove(conversation) {
    const at = this.conversations.indexOf(conversation);
    this.conversations = this.conversations.filter((each) => each !== conversation);
    if (this.current === conversation) this.current = newConversation();
    clearTimeout(this.timers.get(conversation.id));
    this.timers.delete(conversation.id);
    await this.store.remove(conversation.id);
    return this.conversations[Math.min(at, this.conversations.length - 1)]?.id ?? null;
  }

  /** @param {Conversation} conversation that was removed */
  async putBack(conversation) {
    this.add(conversation);
    await this.save(conversation);
  }

  async removeAll() {
    this.conversations = [];
    await this.store.removeAll();
  }

  /** @param {Conversation} conversation */
  exportOne(conversation) {
    download(fileName(conversation.title), exported([conversation]));
  }

  exportAll() {
    download(`ggufpy-conversations-${new Date().toISOString().slice(0, 10)}.json`, exported(this.conversations));
  }

  /** @param {File} file @returns {Promise<{error: string, text: string}>} */
  async importFile(file) {
    try {
      const found = await importedFile(file);
      const fresh = unknownOnes(found, (id) => this.find(id));
      await this.store.saveNew(fresh);
      for (const each of fresh) this.add(each);
      const before = found.length - fresh.length;
      return { error: "", text: `Imported ${fresh.length}${before > 0 ? `; ${before} were here already` : ""}.` };
    } catch (error) {
      if (error instanceof ImportError) return { error: `Nothing was imported: ${error.message}.`, text: "" };
      return { error: `Nothing was imported: the browser could not save it (${nameOf(error)}).`, text: "" };
    }
  }
}

/**
 * A conversation as it was read, with the messages that have not changed as they were: one may be being edited.
 * @param {Conversation|undefined} before
 * @param {Conversation} now
 * @returns {Conversation}
 */
function sameNodes(before, now) {
  const known = new Map(before?.nodes.map((node) => [node.id, node]));
  const same = (node) => known.has(node.id) && JSON.stringify(known.get(node.id)) === JSON.stringify(node);
  return { ...now, nodes: now.nodes.map((node) => same(node) ? known.get(node.id) : node) };
}

/** @param {unknown} error @returns {string} what kind of error it is, as QuotaExceededError */
function nameOf(error) {
  return error instanceof Error ? error.name : String(error);
}
