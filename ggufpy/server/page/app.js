/** @file The page: holds what is shown, and joins its parts. */
import * as api from "./api.js";
import { Answer, requestBody } from "./answer.js";
import { Composer } from "./composer.js";
import { announce, ask, openDialog, toast, wireDialogs } from "./dialogs.js";
import { byId, fillIcons, h } from "./dom.js";
import { Figures } from "./figures.js";
import { wireKeys } from "./keys.js";
import { Library } from "./library.js";
import { loadPrefs, savePrefs } from "./prefs.js";
import { Pace } from "./render.js";
import { Scroll } from "./scroll.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Thread } from "./thread.js";
import { addAnswer, addMessage, choose } from "./tree.js";

/** @typedef {import("./types.js").Conversation} Conversation */
/** @typedef {import("./types.js").Node} Node */

const EXAMPLES = ["Explain how a hash table works, with a small example.", "Write a Python function that merges two sorted lists.", "Plan three quiet days in a small town by the sea."];

class App {
  constructor() {
    this.prefs = loadPrefs();
    /** Answers that are on their way, by conversation. @type {Map<string, Answer>} */
    this.answers = new Map();
    this.library = new Library({ changed: () => this.showAll(), live: (id) => this.answers.has(id) });
    this.scroll = new Scroll();
    this.figures = new Figures();
    this.thread = new Thread({
      edit: (node, text) => this.send(text, node.parent),
      again: (node) => this.again(node),
      choose: (node) => this.choose(node),
      key: () => this.askKey(),
    });
    this.composer = new Composer({
      send: (text) => this.send(text, this.library.current.head),
      stop: () => this.stop(),
      changed: () => this.optionsChanged(),
      editLast: () => !this.answers.has(this.library.current.id) && this.thread.editLast(),
    });
    this.sidebar = new Sidebar({
      open: (id) => this.open(id),
      rename: (conversation) => this.library.rename(conversation),
      remove: (conversation) => this.remove(conversation),
      save: (conversation) => this.library.exportOne(conversation),
    });
    this.settings = new Settings(this.prefs, {
      key: () => this.askKey(),
      exportAll: () => this.library.exportAll(),
      importFile: (file) => this.importFile(file),
      deleteAll: () => this.deleteAll(),
    });
    this.pace = new Pace(() => this.draw());
  }

  async start() {
    fillIcons();
    wireDialogs();
    wireKeys({
      newChat: () => this.newChat(),
      search: () => this.search(),
      settings: () => this.openSettings(),
      shortcuts: () => openDialog(byId("shortcuts-dialog")),
      stop: () => this.stop(),
      message: () => byId("message").focus(),
    });
    this.wire();
    this.examples();
    await this.library.start(location.hash.slice(1));
    this.showAll();
    this.scroll.toEnd();
    if (!matchMedia("(pointer: coarse)").matches) byId("message").focus();
    await this.connect();
  }

  wire() {
    byId("new-chat").addEventListener("click", () => this.newChat());
    byId("open-settings").addEventListener("click", () => this.openSettings());
    byId("open-shortcuts").addEventListener("click", () => openDialog(byId("shortcuts-dialog")));
    byId("model").addEventListener("change", () => {
      this.prefs.model = byId("model").value;
      savePrefs(this.prefs);
      this.forgetModel();
    });
    byId("system").addEventListener("input", () => {
      this.library.current.system = byId("system").value;
      this.optionsChanged();
    });
    addEventListener("hashchange", () => {
      const id = location.hash.slice(1);
      if (id !== this.library.address) this.open(id);
    });
    // Both: a phone may end a page that is hidden without a further word.
    for (const event of ["pagehide", "visibilitychange"]) addEventListener(event, () => this.library.journal([...this.answers.values()]));
  }

  examples() {
    byId("examples").append(...EXAMPLES.map((text) => h("button", { type: "button", class: "example", text, on: { click: () => {
      this.composer.set(text);
      byId("message").focus();
    } } })));
  }

  /** Asks the server for its models; says what is wrong and what to do where it does not answer. */
  async connect() {
    const select = byId("model");
    try {
      const models = await api.models();
      const chosen = models.find((model) => model.id === this.prefs.model) ?? models[0];
      select.replaceChildren(...models.map((model) => h("option", { value: model.id, text: model.id, selected: model === chosen })));
      if (models.length === 0) select.append(h("option", { value: "", text: "No model" }));
      select.disabled = models.length === 0;
      this.notice(models.length > 0 ? "" : "The server has no model. Start it with one, as: ggufpy serve smollm2", "Look again");
      // A question about one of several models may load it, and put out another: that one is asked after its answers.
      if (models.length === 1) this.describeModel();
      else this.forgetModel();
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      if (error.kind === "key") this.notice("This server wants an API key.", "Enter the key", () => this.askKey());
      else this.notice(error.kind === "network" ? "The server does not answer. Check that ggufpy serve is running." : error.message, "Retry");
    }
  }

  /** What the server says of the model: its context and defaults. */
  async describeModel() {
    const asked = this.model;
    const { context, defaults } = await api.properties(asked);
    if (asked !== this.model) return;
    this.settings.setDefaults(defaults);
    this.figures.setContext(context);
    this.figures.show(this.library.current, this.answers.get(this.library.current.id));
  }

  forgetModel() {
    this.settings.setDefaults({});
    this.figures.setContext(null);
    this.figures.show(this.library.current, this.answers.get(this.library.current.id));
  }

  /** @returns {string|null} */
  get model() {
    return byId("model").disabled ? this.prefs.model : byId("model").value;
  }

  /** @param {string} text "" takes it away @param {string} label @param {() => void} [act] */
  notice(text, label, act = () => this.connect()) {
    const place = byId("notice");
    place.hidden = text === "";
    place.replaceChildren(h("span", { text }), h("button", { type: "button", class: "button", text: label, on: { click: act } }));
  }

  async askKey() {
    const before = this.library.current.nodes.findLast((node) => node.id === this.library.current.head);
    const given = await ask({
      title: "API key", text: "The server was started with --api-key: it answers only those who have one.", yes: "Use this key",
      field: { label: "Key", value: "", secret: true }, option: "Keep it in this browser, for anyone who uses it",
    });
    if (given === null) return;
    api.setKey(given.text, given.ticked);
    this.settings.showKey();
    await this.connect();
    if (before?.failure?.kind === "key") this.again(before);
  }

  /** Everything that is shown, anew. */
  showAll() {
    const { current, conversations } = this.library;
    const answer = this.answers.get(current.id);
    byId("title").textContent = current.title;
    document.title = current.nodes.length === 0 ? "ggufpy" : `${current.title} – ggufpy`;
    byId("empty").hidden = current.nodes.length > 0;
    if (byId("system").value !== current.system) byId("system").value = current.system;
    byId("system-preview").textContent = current.system.trim().split("\n", 1)[0];
    this.sidebar.update(conversations, current.id);
    this.thread.show(current, answer);
    this.composer.show(current, this.library.address);
    this.composer.setLive(answer !== undefined);
    this.figures.show(current, answer);
    this.scroll.follow();
    if (location.hash.slice(1) !== this.library.address) history.pushState(null, "", `#${this.library.address}`);
  }

  /** The answer that is shown has gone on. */
  draw() {
    const answer = this.answers.get(this.library.current.id);
    if (answer === undefined) return;
    this.thread.progress(answer);
    this.figures.show(this.library.current, answer);
    this.scroll.follow();
  }

  optionsChanged() {
    byId("system-preview").textContent = this.library.current.system.trim().split("\n", 1)[0];
    this.library.saveOptions();
  }

  /** @param {string} id */
  open(id) {
    this.library.open(id);
    this.showAll();
    this.scroll.toEnd();
  }

  newChat() {
    this.sidebar.show(false);
    this.open("");
    byId("message").focus();
  }

  search() {
    this.sidebar.show(true);
    byId("search").focus();
    byId("search").select();
  }

  openSettings() {
    this.settings.open(this.library.conversations.length, this.library.keeps);
  }

  /** @param {Node} node */
  choose(node) {
    const { current } = this.library;
    if (this.answers.has(current.id)) return;
    choose(current, node);
    this.library.save(current);
    this.showAll();
  }

  /** @param {string} text @param {string|null} parent id of the message that it follows */
  send(text, parent) {
    const { current } = this.library;
    if (this.answers.has(current.id)) return;
    const node = addMessage(current, parent, text);
    this.answer(current, node.id);
  }

  /** @param {Node} node an answer */
  again(node) {
    const { current } = this.library;
    if (this.answers.has(current.id) || node.parent === null) return;
    this.answer(current, node.parent);
  }

  /** @param {Conversation} conversation @param {string} message id of what is answered */
  async answer(conversation, message) {
    const body = requestBody(conversation, message, this.prefs, this.model);
    const node = addAnswer(conversation, message, this.model);
    const answer = new Answer(conversation, node, body, { changed: () => this.progress(answer) });
    this.answers.set(conversation.id, answer);
    conversation.updated = Date.now();
    this.library.add(conversation);
    this.showAll();
    this.scroll.toEnd();
    await this.library.save(conversation);
    await answer.run();
    this.answers.delete(conversation.id);
    await this.finish(conversation, node);
  }

  /** @param {Answer} answer */
  progress(answer) {
    if (answer.waiting !== "" && !answer.told) announce(answer.waiting);
    answer.told = answer.waiting !== "";
    this.library.saveSoon(answer.conversation);
    if (answer.conversation === this.library.current) this.pace.ask();
  }

  /** @param {Conversation} conversation @param {Node} node */
  async finish(conversation, node) {
    conversation.updated = Date.now();
    this.showAll();
    if (node.status === "failed") announce(`No answer: ${node.failure.message}`);
    else announce(node.status === "stopped" ? "Stopped." : `Answer: ${node.content}`);
    await this.library.save(conversation);
    if (node.failure?.kind === "key") await this.askKey();
    else if (node.failure?.kind === "network") await this.connect();
    else if (node.status === "done" && !byId("notice").hidden) await this.connect();
    if (node.status === "done" && node.model === this.model && this.figures.context === null) await this.describeModel();
  }

  /** @returns {boolean} whether there was something to stop */
  stop() {
    const answer = this.answers.get(this.library.current.id);
    answer?.stop();
    return answer !== undefined;
  }

  /** @param {Conversation} conversation */
  async remove(conversation) {
    this.answers.get(conversation.id)?.stop();
    const next = await this.library.remove(conversation);
    this.showAll();
    if (next === null) byId("new-chat").focus();
    else this.sidebar.focus(next);
    toast(`Deleted “${conversation.title}”.`, { label: "Undo", run: async () => {
      await this.library.putBack(conversation);
      this.open(conversation.id);
      this.sidebar.focus(conversation.id);
    } });
  }

  async deleteAll() {
    const count = this.library.conversations.length;
    const sure = await ask({ title: "Delete all conversations?", text: `${count} will be gone from this browser. Export them first to keep a copy.`, yes: "Delete all", danger: true });
    if (sure === null) return;
    for (const answer of this.answers.values()) answer.stop();
    await this.library.removeAll();
    byId("settings-dialog").close();
    this.open("");
    toast("All conversations are deleted.");
  }

  /** @param {File} file @returns {Promise<string>} */
  async importFile(file) {
    const { error, text } = await this.library.importFile(file);
    if (error !== "") return error;
    byId("settings-dialog").close();
    this.showAll();
    toast(text);
    return "";
  }
}

await new App().start();
