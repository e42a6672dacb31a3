/** @file Makes DOM nodes. Text always becomes text nodes: nothing here or elsewhere in the page parses HTML. */

const SVG = "http://www.w3.org/2000/svg";

/** Paths of the icons on a grid of 24. */
const ICONS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 0 0 14a7 7 0 0 0 0-14zM16 16l4 4",
  send: "M12 19V5M6 11l6-6l6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M5 12.5l4.5 4.5L19 7",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  again: "M19 12a7 7 0 1 1-2-5M17 3v4h-4",
  more: "M5.5 12h.01M12 12h.01M18.5 12h.01",
  settings: "M4 7h9M17 7h3M15 5v4M4 17h3M11 17h9M9 15v4",
  close: "M6 6l12 12M18 6L6 18",
  left: "M14 6l-6 6l6 6",
  right: "M10 6l6 6l-6 6",
  down: "M6 10l6 6l6-6",
  braces: "M9 4H8a2 2 0 0 0-2 2v4l-2 2l2 2v4a2 2 0 0 0 2 2h1M15 4h1a2 2 0 0 1 2 2v4l2 2l-2 2v4a2 2 0 0 1-2 2h-1",
  keyboard: "M3 7h18v11H3zM7 11h.01M11 11h.01M15 11h.01M8 15h8",
  alert: "M12 4l9 16H3zM12 10v4M12 17h.01",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
};

/**
 * An element. Properties: `class`, `text`, `on` (event name to listener), booleans as they are, others as attributes.
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node|string|null)} children
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (/^on|^style$|^srcdoc$/i.test(name)) throw new TypeError(`${name} is not set as an attribute`);
    else if (typeof value === "boolean" && !name.startsWith("aria-")) element.toggleAttribute(name, value);
    else element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/**
 * @param {keyof typeof ICONS} name
 * @returns {SVGSVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * A button that shows an icon and has a name.
 * @param {keyof typeof ICONS} name
 * @param {string} label what it does, for screen readers and as a tip
 * @param {(event: Event) => void} action
 * @param {string} [kind] further classes
 */
export function iconButton(name, label, action, kind = "") {
  return h("button", { type: "button", class: `icon-button ${kind}`, "aria-label": label, title: label, on: { click: action } }, icon(name));
}

/** Puts the icons into elements of index.html that name one in data-icon. */
export function fillIcons() {
  /** @type {NodeListOf<HTMLElement>} */
  const elements = document.querySelectorAll("[data-icon]");
  for (const element of elements) element.prepend(icon(/** @type {keyof typeof ICONS} */ (element.dataset.icon)));
}

/** @param {string} id @returns {any} the element of index.html with this id */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`index.html has no #${id}`);
  return element;
}

/**
 * Copies a text. Without a secure context (a server on the local network) browsers have no clipboard interface:
 * then the older way through a selection.
 * @param {string} text
 * @returns {Promise<boolean>} whether it was copied
 */
export async function copyText(text) {
  if (navigator.clipboard !== undefined) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Refused, as in a window without focus: try the other way.
    }
  }
  const before = document.activeElement;
  const area = h("textarea", { class: "off-screen", "aria-hidden": "true", tabindex: -1 });
  area.value = text;
  (before?.closest("dialog") ?? document.body).append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (before instanceof HTMLElement) before.focus();
  return copied;
}

/** @param {number} value @param {number} [digits] */
export function number(value, digits = 0) {
  return value.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A short random name; crypto.randomUUID is only there in secure contexts. */
export function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
