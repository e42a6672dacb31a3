/**
 * @file The figures under the message box: tokens a second, and how much of the context is used.
 * @typedef {import("./types.js").Conversation} Conversation
 * @typedef {import("./answer.js").Answer} Answer
 */
import { byId, number } from "./dom.js";
import { path, tokensUsed } from "./tree.js";

export class Figures {
  constructor() {
    /** Tokens that the model's context holds. @type {number|null} */
    this.context = null;
  }

  /** @param {number|null} context */
  setContext(context) {
    this.context = context;
  }

  /** @param {Conversation} conversation @param {Answer|undefined} answer the one that is on its way */
  show(conversation, answer) {
    byId("speed").textContent = speedText(conversation, answer);
    const before = tokensUsed(conversation);
    const used = before === null && answer === undefined ? null : (before ?? 0) + (answer?.pieces ?? 0);
    byId("context").hidden = used === null;
    if (used === null) return;
    byId("context-bar").hidden = this.context === null;
    byId("context-label").textContent = this.context === null ? `Context ${number(used)}` : `Context ${number(used)} of ${number(this.context)}`;
    byId("context-bar").value = Math.min(used / (this.context ?? 1), 1);
    byId("context").classList.toggle("full", this.context !== null && used > 0.9 * this.context);
  }
}

/** @param {Conversation} conversation @param {Answer|undefined} answer @returns {string} */
function speedText(conversation, answer) {
  const speed = answer === undefined ? path(conversation).at(-1)?.stats?.perSecond ?? null : answer.speed;
  return speed === null ? "" : `${number(speed, 1)} tokens/s`;
}
