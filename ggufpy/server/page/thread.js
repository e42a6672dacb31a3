/**
 * @file The messages of a conversation on the page. A view a message; only the one that changes is drawn again.
 * @typedef {import("./types.js").Conversation} Conversation
 * @typedef {import("./types.js").Node} Node
 * @typedef {import("./answer.js").Answer} Answer
 */
import { byId, copyText, h, icon, iconButton, number } from "./dom.js";
import { MarkdownView } from "./render.js";
import { isEmpty, path, versions } from "./tree.js";

/**
 * @typedef {object} Actions
 * @property {(node: Node, text: string) => void} edit
 * @property {(node: Node) => void} again another answer in the place of this one
 * @property {(node: Node) => void} choose
 * @property {() => void} key asks for an API key
 */

export class Thread {
  /** @param {Actions} actions */
  constructor(actions) {
    this.actions = actions;
    this.list = byId("thread");
    /** @type {Map<string, MessageView>} */
    this.views = new Map();
  }

  /**
   * @param {Conversation} conversation
   * @param {Answer|undefined} answer the one that is on its way
   */
  show(conversation, answer) {
    const shown = path(conversation);
    const before = this.views;
    this.views = new Map();
    for (const node of shown) {
      const known = before.get(node.id);
      const view = known?.node === node ? known : new MessageView(node, this.actions);
      view.update(versions(conversation, node), answer?.node === node ? answer : undefined);
      this.views.set(node.id, view);
    }
    const elements = shown.map((node) => this.views.get(node.id).element);
    // Nodes that stay are not taken out: they may have the focus.
    const kept = new Set(elements);
    for (const child of [...this.list.children]) if (!kept.has(child)) child.remove();
    elements.forEach((element, at) => {
      if (this.list.children[at] !== element) this.list.insertBefore(element, this.list.children[at] ?? null);
    });
  }

  /** @param {Answer} answer */
  progress(answer) {
    this.views.get(answer.node.id)?.update(null, answer);
  }

  /** @returns {boolean} whether there was a message to edit */
  editLast() {
    const last = [...this.views.values()].findLast((view) => view.node.role === "user");
    last?.edit();
    return last !== undefined;
  }
}

class MessageView {
  /** @param {Node} node @param {Actions} actions */
  constructor(node, actions) {
    this.node = node;
    this.actions = actions;
    this.element = h("li", { class: `message ${node.role}` });
    this.article = h("article", { "aria-label": node.role === "user" ? "You" : "Answer" });
    this.element.append(this.article);
    this.body = h("div", { class: "body" });
    this.foot = h("div", { class: "foot" });
    this.article.append(this.body, this.foot);
    /** @type {Node[]} */
    this.versions = [node];
    this.editing = false;
    this.markdown = new MarkdownView();
    this.thoughts = new MarkdownView();
    this.details = null;
    this.state = h("div", { class: "state" });
    this.footState = "";
    if (node.role === "assistant") this.body.append(this.markdown.element, this.state);
  }

  /** @param {Node[]|null} others versions of it, itself among them; null: as before @param {Answer|undefined} answer */
  update(others, answer) {
    this.versions = others ?? this.versions;
    if (this.editing) return;
    const live = answer !== undefined && this.node.status === "streaming";
    this.article.setAttribute("aria-busy", String(live));
    if (this.node.role === "user") this.body.replaceChildren(h("div", { class: "said", text: this.node.content }));
    else this.drawAnswer(live, answer);
    this.drawFoot(live);
  }

  /** @param {boolean} live @param {Answer|undefined} answer */
  drawAnswer(live, answer) {
    const { node } = this;
    this.drawThoughts(live);
    this.markdown.update(node.json && node.content !== "" ? `\`\`\`\`json\n${node.content}${live ? "" : "\n````"}` : node.content, !live);
    this.state.replaceChildren(...this.stateParts(live, answer));
    this.article.classList.toggle("live", live);
  }

  /** @param {boolean} live */
  drawThoughts(live) {
    const { node } = this;
    if (node.thoughts === "") return;
    const thinking = live && node.content === "";
    if (this.details === null) {
      this.summary = h("span", {});
      this.details = h("details", { class: "thoughts" }, h("summary", {}, icon("right"), this.summary), this.thoughts.element);
      this.body.prepend(this.details);
    }
    this.summary.textContent = thinking ? "Thinking" : "Thoughts";
    this.details.classList.toggle("thinking", thinking);
    this.thoughts.update(node.thoughts, !thinking);
  }

  /** What is said under an answer. @param {boolean} live @param {Answer|undefined} answer @returns {Element[]} */
  stateParts(live, answer) {
    const { node } = this;
    const parts = [];
    if (node.calls !== "") parts.push(h("p", { class: "remark", text: "The model asks for a tool. This page runs none: write what the tool would say." }), h("pre", { class: "calls", tabindex: 0, text: node.calls }));
    if (live && answer.waiting !== "") parts.push(h("p", { class: "remark", text: answer.waiting }));
    else if (live && isEmpty(node)) parts.push(h("p", { class: "dots", "aria-label": "The answer is on its way" }, h("span"), h("span"), h("span")));
    else if (!live && node.status === "streaming") parts.push(h("p", { class: "remark", text: "This answer was cut off when its page was closed." }));
    if (node.status === "stopped") parts.push(h("p", { class: "remark", text: "Stopped." }));
    if (node.status === "done" && node.finish === "length") parts.push(h("p", { class: "remark", text: "The limit of tokens ended this answer. Raise Max tokens in the settings, or ask to go on." }));
    if (node.status === "done" && isEmpty(node)) parts.push(h("p", { class: "remark", text: "The model answered with nothing." }));
    if (node.status === "failed" && node.failure !== null) parts.push(this.failurePart(node.failure));
    return parts;
  }

  /** @param {import("./types.js").Failure} failure */
  failurePart(failure) {
    const advice = {
      network: "Check that ggufpy serve is running. What you wrote is kept here.",
      key: "Whoever runs the server has one.",
      busy: "Many requests are waiting. Try again in a moment.",
      loading: "Try again in a moment.",
      refused: "Change the message or the settings, and try again.",
      server: "The server's log may say more.",
      cut: "What came of the answer is kept.",
    }[failure.kind];
    const button = failure.kind === "key"
      ? h("button", { type: "button", class: "button", text: "Enter the key", on: { click: () => this.actions.key() } })
      : h("button", { type: "button", class: "button", text: "Retry", on: { click: () => this.actions.again(this.node) } });
    return h("div", { class: "failure", role: "group", "aria-label": "Error" }, icon("alert"), h("div", {}, h("p", { class: "failure-message", text: failure.message }), h("p", { class: "note", text: advice })), button);
  }

  /** Buttons and figures; made again only when they change, so that they keep the focus. @param {boolean} live */
  drawFoot(live) {
    const { node } = this;
    const at = this.versions.indexOf(node);
    const state = `${live} ${at} ${this.versions.length} ${node.status} ${node.content === ""}`;
    if (state === this.footState) return;
    this.footState = state;
    const focused = this.foot.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    this.foot.replaceChildren(...(live ? [] : this.footParts(at)));
    if (focused !== null) this.foot.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
  }

  /** @param {number} at which version is shown */
  footParts(at) {
    const { node, actions } = this;
    const parts = [];
    if (this.versions.length > 1) {
      const step = (by) => actions.choose(this.versions[at + by]);
      const left = iconButton("left", "Earlier version", () => step(-1));
      const right = iconButton("right", "Later version", () => step(1));
      left.disabled = at === 0;
      right.disabled = at === this.versions.length - 1;
      parts.push(h("span", { class: "versions" }, left, h("span", { text: `${at + 1} / ${this.versions.length}` }), right));
    }
    if (node.content !== "") {
      const copy = iconButton("copy", node.role === "user" ? "Copy message" : "Copy answer", async () => {
        copy.replaceChildren(icon(await copyText(node.content) ? "check" : "alert"));
        setTimeout(() => copy.replaceChildren(icon("copy")), 1500);
      });
      parts.push(copy);
    }
    if (node.role === "user") parts.push(iconButton("edit", "Edit message", () => this.edit()));
    else if (node.status !== "failed") parts.push(iconButton("again", "Answer again", () => actions.again(node)));
    if (node.stats !== null && node.role === "assistant") parts.push(h("span", { class: "stats", title: node.stats.cached ? `${number(node.stats.cached)} tokens of the prompt came from the cache` : null, text: statsText(node) }));
    return parts;
  }

  edit() {
    this.editing = true;
    const area = h("textarea", { class: "editor", "aria-label": "Edit message", rows: Math.min(12, this.node.content.split("\n").length + 1) });
    area.value = this.node.content;
    const close = () => {
      this.editing = false;
      this.footState = "";
      this.update(null, undefined);
      this.foot.querySelector("[aria-label='Edit message']")?.focus();
    };
    const send = () => {
      if (area.value.trim() === "") return;
      close();
      if (area.value !== this.node.content) this.actions.edit(this.node, area.value);
    };
    area.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") close();
      else if (event.key === "Enter" && !event.shiftKey) send();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.body.replaceChildren(area);
    this.foot.replaceChildren(
      h("button", { type: "button", class: "button", text: "Cancel", on: { click: close } }),
      h("button", { type: "button", class: "button primary", text: "Send", on: { click: send } }),
    );
    area.focus();
  }
}

/** @param {Node} node */
function statsText(node) {
  const { completion, perSecond } = node.stats;
  return [
    completion === null ? null : `${number(completion)} ${completion === 1 ? "token" : "tokens"}`,
    perSecond === null ? null : `${number(perSecond, 1)} tokens/s`,
  ].filter((part) => part !== null).join(" · ");
}
