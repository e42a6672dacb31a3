/** @file A small menu under a button: arrows move, Enter chooses, Esc and Tab close it, and the focus goes back. */
import { h } from "./dom.js";

/** @type {(() => void)|null} closes the menu that is open */
let closeOpen = null;

/**
 * @param {HTMLElement} button
 * @param {string} label
 * @param {{label: string, danger?: boolean, run: () => void}[]} entries
 */
export function openMenu(button, label, entries) {
  const again = button.getAttribute("aria-expanded") === "true";
  closeOpen?.();
  if (again) return;
  const menu = h("div", { class: "menu", role: "menu", "aria-label": label });
  const outside = (event) => {
    if (!menu.contains(event.target) && !button.contains(event.target)) close(false);
  };
  const close = (back = true) => {
    menu.remove();
    button.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", outside, true);
    closeOpen = null;
    if (back) button.focus();
  };
  for (const { label: name, danger, run } of entries) {
    menu.append(h("button", { type: "button", role: "menuitem", tabindex: -1, class: danger ? "danger" : "", text: name, on: { click: () => {
      close();
      run();
    } } }));
  }
  menu.addEventListener("keydown", (event) => move(event, menu, close));
  // A menu whose focus went elsewhere is done with.
  menu.addEventListener("focusout", (event) => {
    if (event.relatedTarget !== null && !menu.contains(event.relatedTarget)) close(false);
  });
  (button.closest("aside, dialog") ?? document.body).append(menu);
  place(menu, button);
  button.setAttribute("aria-expanded", "true");
  document.addEventListener("pointerdown", outside, true);
  closeOpen = () => close(false);
  menu.firstChild.focus();
}

/** @param {KeyboardEvent} event @param {HTMLElement} menu @param {(back?: boolean) => void} close */
function move(event, menu, close) {
  const items = /** @type {HTMLElement[]} */ ([...menu.children]);
  const at = items.findIndex((item) => item === document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
  if (to !== undefined) items[(to + items.length) % items.length].focus();
  else if (event.key === "Escape" || event.key === "Tab") close();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

/** @param {HTMLElement} menu @param {HTMLElement} button */
function place(menu, button) {
  const box = button.getBoundingClientRect();
  const below = box.bottom + 4 + menu.offsetHeight <= window.innerHeight;
  menu.style.top = `${below ? box.bottom + 4 : Math.max(8, box.top - 4 - menu.offsetHeight)}px`;
  menu.style.left = `${Math.max(8, Math.min(box.right - menu.offsetWidth, window.innerWidth - menu.offsetWidth - 8))}px`;
}
