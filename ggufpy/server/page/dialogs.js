/** @file Dialogs: the browser's own <dialog>, which holds the focus and closes on Esc; the focus goes back after. */
import { byId, h } from "./dom.js";

/** @param {HTMLDialogElement} dialog @param {HTMLElement|null} [focus] what gets the focus first */
export function openDialog(dialog, focus = null) {
  const before = document.activeElement;
  dialog.addEventListener("close", () => {
    if (before instanceof HTMLElement && before.isConnected) before.focus();
  }, { once: true });
  dialog.showModal();
  focus?.focus();
}

/** Buttons that close, and a click on what is around a dialog. */
export function wireDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
    dialog.addEventListener("pointerdown", (event) => {
      const box = dialog.getBoundingClientRect();
      const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
      if (event.target === dialog && !inside) dialog.close();
    });
  }
}

/**
 * Asks for a yes, or for a text.
 * @param {object} question
 * @param {string} question.title
 * @param {string} question.text
 * @param {string} question.yes what the button says
 * @param {boolean} [question.danger]
 * @param {{label: string, value: string, secret?: boolean}} [question.field]
 * @param {string} [question.option] a box to tick
 * @returns {Promise<{text: string, ticked: boolean}|null>} null: not wanted
 */
export function ask({ title, text, yes, danger = false, field, option }) {
  const dialog = byId("ask-dialog");
  // One question at a time: the one that is open is answered first.
  if (dialog.open) return Promise.resolve(null);
  const input = byId("ask-input");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-text").hidden = text === "";
  byId("ask-field").hidden = field === undefined;
  byId("ask-label").textContent = field?.label ?? "";
  input.type = field?.secret ? "password" : "text";
  input.value = field?.value ?? "";
  byId("ask-option").hidden = option === undefined;
  byId("ask-check-label").textContent = option ?? "";
  byId("ask-check").checked = false;
  const button = byId("ask-yes");
  button.textContent = yes;
  button.classList.toggle("danger", danger);
  return new Promise((resolve) => {
    let answer = null;
    const form = byId("ask-form");
    form.onsubmit = (event) => {
      event.preventDefault();
      if (field !== undefined && input.value.trim() === "") {
        input.focus();
        return;
      }
      answer = { text: input.value.trim(), ticked: byId("ask-check").checked };
      dialog.close();
    };
    dialog.addEventListener("close", () => resolve(answer), { once: true });
    openDialog(dialog, field === undefined ? button : input);
    input.select();
  });
}

/** @param {string} text for screen readers, once the page is quiet */
export function announce(text) {
  byId("announcer").replaceChildren(h("p", { text: text.length > 1500 ? `${text.slice(0, 1500)} … The rest is on the page.` : text }));
}

/**
 * A line at the bottom that goes away, later while it is pointed at or has the focus.
 * @param {string} text
 * @param {{label: string, run: () => void}} [action]
 */
export function toast(text, action) {
  const toasts = byId("toasts");
  const close = () => {
    clearTimeout(timer);
    line.remove();
  };
  const line = h("div", { class: "toast" }, h("span", { text }));
  if (action !== undefined) {
    line.append(h("button", { type: "button", class: "toast-action", text: action.label, on: { click: () => {
      close();
      action.run();
    } } }));
  }
  const wait = () => setTimeout(close, action === undefined ? 5_000 : 20_000);
  let timer = wait();
  for (const event of ["pointerenter", "focusin"]) line.addEventListener(event, () => clearTimeout(timer));
  for (const event of ["pointerleave", "focusout"]) line.addEventListener(event, () => {
    clearTimeout(timer);
    timer = wait();
  });
  while (toasts.children.length > 1) toasts.firstChild.remove();
  toasts.append(line);
}
