/** @file The box a message is written in, with the JSON-schema box over it. What is typed is kept until it is sent. */
import { byId } from "./dom.js";
import { readSchema } from "./fields.js";
import { drafts } from "./prefs.js";

/** @typedef {import("./types.js").Conversation} Conversation */

const EXAMPLE = `{
  "type": "object",
  "properties": {
    "name": { "type": "string" },
    "year": { "type": "integer" }
  },
  "required": ["name", "year"],
  "additionalProperties": false
}`;

/** Without a keyboard of its own, Enter begins a line: the button sends. */
export const byTouch = matchMedia("(hover: none) and (pointer: coarse)");

export class Composer {
  /** @param {{send: (text: string) => void, stop: () => void, changed: () => void, editLast: () => boolean}} actions */
  constructor(actions) {
    this.actions = actions;
    this.area = byId("message");
    this.schema = byId("schema");
    this.part = byId("schema-part");
    this.switch = byId("schema-switch");
    /** @type {Conversation|null} */
    this.conversation = null;
    this.key = "";
    this.live = false;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    byId("stop").addEventListener("click", () => actions.stop());
    this.area.addEventListener("input", () => {
      this.grow();
      drafts.set(this.key, this.area.value);
    });
    this.area.addEventListener("keydown", (event) => this.pressed(event));
    addEventListener("resize", () => this.grow());
    this.switch.addEventListener("click", () => this.toggle());
    this.schema.addEventListener("input", () => {
      this.conversation.schema = this.schema.value;
      this.check();
      actions.changed();
    });
    byId("schema-example").addEventListener("click", () => {
      this.schema.value = EXAMPLE;
      this.schema.dispatchEvent(new Event("input"));
      this.schema.focus();
    });
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" && !event.shiftKey && !event.altKey && !byTouch.matches) {
      event.preventDefault();
      this.submit();
    } else if ((event.key === "PageUp" || event.key === "PageDown") && this.area.scrollHeight <= this.area.clientHeight + 1) {
      event.preventDefault();
      const messages = byId("scroll");
      messages.scrollBy({ top: (event.key === "PageUp" ? -0.9 : 0.9) * messages.clientHeight });
    } else if (event.key === "ArrowUp" && this.area.value === "" && this.actions.editLast()) event.preventDefault();
  }

  submit() {
    const text = this.area.value;
    // Nothing is sent before the kept conversations have been read.
    if (text.trim() === "" || this.live || this.conversation === null) return;
    if (this.conversation.constrained && this.check() !== "") {
      this.schema.focus();
      return;
    }
    this.set("");
    drafts.set(this.key, "");
    this.actions.send(text);
  }

  /** @param {string} text */
  set(text) {
    this.area.value = text;
    this.grow();
  }

  grow() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight, Math.round(window.innerHeight * 0.4))}px`;
    byId("send").disabled = this.area.value.trim() === "";
  }

  /** @param {Conversation} conversation @param {string} key of its draft */
  show(conversation, key) {
    this.conversation = conversation;
    if (key !== this.key || this.area.value === "") {
      this.key = key;
      this.set(drafts.get(key));
    }
    if (this.schema.value !== conversation.schema) this.schema.value = conversation.schema;
    this.showSchema();
  }

  /** @param {boolean} live whether an answer is on its way */
  setLive(live) {
    if (live === this.live) return;
    const focused = document.activeElement === byId("stop") || document.activeElement === byId("send");
    this.live = live;
    byId("send").hidden = live;
    byId("stop").hidden = !live;
    if (focused) (live ? byId("stop") : this.area).focus();
  }

  toggle() {
    this.conversation.constrained = !this.conversation.constrained;
    this.showSchema();
    if (this.conversation.constrained) this.schema.focus();
    this.actions.changed();
  }

  showSchema() {
    const on = this.conversation.constrained;
    this.part.hidden = !on;
    this.switch.setAttribute("aria-pressed", String(on));
    this.switch.title = on ? "Answer freely again" : "Hold answers to a JSON schema";
    this.check();
  }

  /** @returns {string} what is wrong with the schema; an empty box is only wrong when a message is sent */
  check() {
    const { error } = readSchema(this.schema.value);
    const shown = this.schema.value.trim() === "" && document.activeElement !== this.area ? "" : error;
    byId("schema-error").textContent = shown;
    this.schema.setAttribute("aria-invalid", String(shown !== ""));
    return error;
  }
}
