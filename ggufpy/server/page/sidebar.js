/**
 * @file The list of conversations: searched, grouped by day, each with its menu; on small screens a drawer.
 * @typedef {import("./types.js").Conversation} Conversation
 */
import { byId, h, iconButton } from "./dom.js";
import { openMenu } from "./menu.js";

const DAY = 86_400_000;

/**
 * @typedef {object} Actions
 * @property {(id: string) => void} open
 * @property {(conversation: Conversation) => void} rename
 * @property {(conversation: Conversation) => void} remove
 * @property {(conversation: Conversation) => void} save as a file
 */

export class Sidebar {
  /** @param {Actions} actions */
  constructor(actions) {
    this.actions = actions;
    this.list = byId("conversations");
    this.search = byId("search");
    this.drawer = byId("sidebar");
    this.narrow = matchMedia("(max-width: 859px)");
    this.search.addEventListener("input", () => this.render());
    this.search.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.search.value === "") return;
      this.search.value = "";
      this.render();
      event.stopPropagation();
    });
    byId("sidebar-open").addEventListener("click", () => this.show(true));
    for (const id of ["sidebar-close", "backdrop"]) byId(id).addEventListener("click", () => this.show(false));
    this.drawer.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.isOpen) this.show(false);
    });
    this.narrow.addEventListener("change", () => this.show(false));
    /** @type {Conversation[]} */
    this.conversations = [];
    /** @type {string|null} */
    this.current = null;
  }

  get isOpen() {
    return document.body.classList.contains("drawer");
  }

  /** @param {boolean} open the drawer of small screens */
  show(open) {
    const was = this.isOpen;
    const shown = open && this.narrow.matches;
    document.body.classList.toggle("drawer", shown);
    byId("backdrop").hidden = !shown;
    byId("main").inert = shown;
    byId("sidebar-open").setAttribute("aria-expanded", String(shown));
    if (shown) byId("sidebar-close").focus();
    else if (was && this.narrow.matches) byId("sidebar-open").focus();
  }

  /** @param {Conversation[]} conversations newest first @param {string|null} current */
  update(conversations, current) {
    this.conversations = conversations;
    this.current = current;
    this.render();
  }

  render() {
    const wanted = this.search.value.trim().toLowerCase();
    const found = wanted === "" ? this.conversations : this.conversations.filter((each) => matches(each, wanted));
    /** @type {HTMLElement|null|undefined} */
    const holder = document.activeElement?.closest("[data-id]");
    const focused = holder?.dataset.id;
    const groups = new Map();
    for (const each of found) {
      const name = day(each.updated);
      groups.set(name, [...(groups.get(name) ?? []), each]);
    }
    this.list.replaceChildren(...[...groups].flatMap(([name, members], at) => [
      h("h2", { class: "group", id: `group-${at}`, text: name }),
      h("ul", { "aria-labelledby": `group-${at}` }, ...members.map((each) => this.row(each))),
    ]));
    if (found.length === 0) this.list.append(h("p", { class: "nothing", text: wanted === "" ? "Conversations will be listed here." : "Nothing found." }));
    // The list was made anew: the focus stays where it was in it.
    if (focused !== undefined) this.focus(focused);
  }

  /** @param {Conversation} conversation */
  row(conversation) {
    const { id, title } = conversation;
    const more = iconButton("more", `More on ${title}`, () => openMenu(more, `More on ${title}`, [
      { label: "Rename", run: () => this.actions.rename(conversation) },
      { label: "Export", run: () => this.actions.save(conversation) },
      { label: "Delete", danger: true, run: () => this.actions.remove(conversation) },
    ]), "row-more");
    more.setAttribute("aria-haspopup", "menu");
    more.setAttribute("aria-expanded", "false");
    const open = h("button", { type: "button", class: "row-open", title, "aria-current": id === this.current ? "page" : null, text: title, on: { click: () => {
      this.show(false);
      this.actions.open(id);
    } } });
    return h("li", { class: "row", "data-id": id }, open, more);
  }

  /** @param {string} id */
  focus(id) {
    this.list.querySelector(`[data-id="${CSS.escape(id)}"] .row-open`)?.focus({ preventScroll: true });
  }
}

/** @param {Conversation} conversation @param {string} wanted in small letters */
function matches(conversation, wanted) {
  return conversation.title.toLowerCase().includes(wanted) || conversation.nodes.some((node) => node.content.toLowerCase().includes(wanted));
}

/** @param {number} time @returns {string} */
function day(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "Today";
  if (time >= today - DAY) return "Yesterday";
  return time >= today - 7 * DAY ? "Last seven days" : "Earlier";
}
