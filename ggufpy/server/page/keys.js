/** @file Keyboard shortcuts: one table, which is also what the dialog lists. */
import { byId, h } from "./dom.js";

const MAC = /Mac|iPhone|iPad/.test(navigator.platform);

/**
 * @typedef {object} Shortcut
 * @property {string[]} keys as people read them; "Mod" is Ctrl or Command
 * @property {string} does
 * @property {(event: KeyboardEvent) => boolean} [matches] none: it is listed, and belongs to a box
 * @property {keyof Actions} [action]
 */

/** @typedef {{newChat: () => void, search: () => void, settings: () => void, shortcuts: () => void, stop: () => boolean, message: () => void}} Actions */

/** @param {KeyboardEvent} event */
const mod = (event) => (MAC ? event.metaKey : event.ctrlKey) && !event.altKey;

/** @type {Shortcut[]} */
const SHORTCUTS = [
  { keys: ["Enter"], does: "Send the message" },
  { keys: ["Shift", "Enter"], does: "Begin another line" },
  { keys: ["↑"], does: "Edit the last message, in an empty box" },
  { keys: ["Page ↑", "Page ↓"], does: "Read further up or down, from the message box" },
  { keys: ["Esc"], does: "Stop the answer", matches: (event) => event.key === "Escape", action: "stop" },
  { keys: ["Mod", "Shift", "O"], does: "New conversation", matches: (event) => mod(event) && event.shiftKey && event.key.toLowerCase() === "o", action: "newChat" },
  { keys: ["Mod", "K"], does: "Search conversations", matches: (event) => mod(event) && !event.shiftKey && event.key.toLowerCase() === "k", action: "search" },
  { keys: ["Mod", "J"], does: "Go to the message box", matches: (event) => mod(event) && !event.shiftKey && event.key.toLowerCase() === "j", action: "message" },
  { keys: ["Mod", ","], does: "Settings", matches: (event) => mod(event) && event.key === ",", action: "settings" },
  { keys: ["Mod", "/"], does: "This list", matches: (event) => mod(event) && event.key === "/", action: "shortcuts" },
];

/** @param {Actions} actions */
export function wireKeys(actions) {
  const name = (key) => key === "Mod" ? (MAC ? "⌘" : "Ctrl") : key;
  byId("shortcuts").append(...SHORTCUTS.map(({ keys, does }) => h("div", {}, h("dt", { text: does }), h("dd", {}, ...keys.map((key) => h("kbd", { text: name(key) }))))));
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]") !== null) return;
    const found = SHORTCUTS.find((shortcut) => shortcut.matches?.(event));
    if (found?.action === undefined) return;
    if (actions[found.action]() !== false) event.preventDefault();
  });
}
