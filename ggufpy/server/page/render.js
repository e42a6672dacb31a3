/**
 * @file Markdown as DOM nodes, also while it comes. Elements are made by name and texts are text nodes, so that nothing
 * a model writes becomes markup.
 * @typedef {import("./markdown.js").Block} Block
 * @typedef {import("./markdown.js").Code} Code
 */
import { coloured } from "./colour.js";
import { copyText, h, iconButton, icon } from "./dom.js";
import { inline } from "./inline.js";
import { parse } from "./markdown.js";

const DEEPEST = 24;

/** @param {Element} parent @param {string} text Markdown of a line or more */
function fillInline(parent, text) {
  /** @type {Element[]} */
  const open = [parent];
  let skipped = 0;
  for (const event of inline(text)) {
    const top = open[open.length - 1];
    if (event.kind === "text") top.append(event.text);
    else if (event.kind === "code") top.append(h("code", { text: event.text }));
    else if (event.kind === "break") top.append(h("br"));
    else if (event.kind === "open") {
      if (open.length > DEEPEST) skipped += 1;
      else {
        const element = h(event.tag, event.tag === "a" ? { href: event.href, target: "_blank", rel: "noopener noreferrer nofollow" } : {});
        top.append(element);
        open.push(element);
      }
    } else if (skipped > 0) skipped -= 1;
    else open.pop();
  }
}

/** @param {Block[]} blocks @returns {Node[]} */
function elements(blocks) {
  return blocks.map(element);
}

/** @param {Block} block @returns {Element} */
function element(block) {
  if (block.kind === "code") return new CodeView(block).element;
  if (block.kind === "rule") return h("hr");
  if (block.kind === "quote") return h("blockquote", {}, ...elements(block.blocks));
  if (block.kind === "list") return listElement(block);
  if (block.kind === "table") return tableElement(block);
  // The page's own headings are h1 and h2: those of an answer come below them.
  const made = block.kind === "heading" ? h(`h${Math.min(block.level + 2, 6)}`, { class: `heading-${block.level}` }) : h("p");
  fillInline(made, block.text);
  return made;
}

/** @param {import("./markdown.js").List} block */
function listElement(block) {
  const list = h(block.start === null ? "ul" : "ol", block.start === null || block.start === 1 ? {} : { start: block.start });
  for (const { task, blocks } of block.items) {
    const item = h("li", task === null ? {} : { class: "task" });
    if (task !== null) item.append(h("input", { type: "checkbox", disabled: true, checked: task, "aria-label": task ? "done" : "to do" }));
    for (const each of blocks) {
      if (block.tight && each.kind === "paragraph") fillInline(item, each.text);
      else item.append(element(each));
    }
    list.append(item);
  }
  return list;
}

/** @param {import("./markdown.js").Table} block */
function tableElement(block) {
  const [head, ...body] = block.rows;
  const row = (cells, tag) => h("tr", {}, ...cells.map((text, column) => {
    const cell = h(tag, { class: block.align[column] === null ? null : `align-${block.align[column]}`, scope: tag === "th" ? "col" : null });
    fillInline(cell, text);
    return cell;
  }));
  const table = h("table", {}, h("thead", {}, row(head, "th")), h("tbody", {}, ...body.map((cells) => row(cells, "td"))));
  // A wide table scrolls in itself; the keyboard must reach it to scroll it.
  return h("div", { class: "table", tabindex: 0, role: "region", "aria-label": "Table" }, table);
}

/** A fenced block with its language and a button that copies it. */
class CodeView {
  /** @param {Code} block */
  constructor(block) {
    this.text = block.text;
    this.language = block.language;
    this.node = document.createTextNode(block.text);
    this.code = h("code", {}, this.node);
    const label = block.language || "text";
    const copy = iconButton("copy", "Copy code", () => this.copy(copy), "copy-code");
    const bar = h("div", { class: "code-bar" }, h("span", { class: "code-language", text: label }), copy);
    this.element = h("div", { class: "code" }, bar, h("pre", { tabindex: 0, "aria-label": `Code, ${label}`, role: "region" }, this.code));
    if (block.closed) this.colour();
  }

  /** @param {HTMLElement} button */
  async copy(button) {
    const copied = await copyText(this.text);
    button.replaceChildren(icon(copied ? "check" : "alert"));
    button.setAttribute("aria-label", copied ? "Copied" : "The browser refused to copy");
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.setAttribute("aria-label", "Copy code");
    }, 1500);
  }

  /** More of the same block. @param {Code} block @returns {boolean} whether it was more */
  grow(block) {
    if (block.language !== this.language || !block.text.startsWith(this.text)) return false;
    this.node.appendData(block.text.slice(this.text.length));
    this.text = block.text;
    if (block.closed) this.colour();
    return true;
  }

  colour() {
    const parts = coloured(this.text, this.language);
    if (parts === null) return;
    this.code.replaceChildren(...parts.map(({ text, kind }) => kind === "" ? document.createTextNode(text) : h("span", { class: `code-${kind}`, text })));
  }
}

/**
 * Markdown that grows. Blocks that more text cannot change are made once; only what comes after them is parsed and made
 * again, and an open block of code is added to. How often is the caller's: see `Pace`.
 */
export class MarkdownView {
  constructor() {
    this.element = h("div", { class: "prose" });
    this.text = "";
    /** Where the part that may change begins: in letters, and in children of the element. */
    this.base = 0;
    this.kept = 0;
    /** Letters at which kept blocks begin. @type {number[]} */
    this.begins = [];
    /** @type {CodeView|null} */
    this.open = null;
  }

  /** @param {string} text all of it so far @param {boolean} final whether no more will come */
  update(text, final) {
    if (text === this.text && !final) return;
    // Carriage returns would shift what is counted below.
    if (text.includes("\r") || !text.startsWith(this.text)) {
      this.#again(text);
      return;
    }
    this.text = text;
    const tail = text.slice(this.base);
    const blocks = parse(tail);
    if (!this.#grow(blocks)) this.#replaceTail(blocks);
    this.#keep(tail, blocks);
    if (final) this.#settle();
  }

  /** @param {string} text */
  #again(text) {
    this.text = text;
    this.base = this.kept = 0;
    this.begins = [];
    this.open = null;
    this.element.replaceChildren(...elements(parse(text)));
  }

  /** @param {Block[]} blocks @returns {boolean} whether all that is new went into the open block of code */
  #grow(blocks) {
    const only = blocks.length === 1 ? blocks[0] : null;
    return this.open !== null && only?.kind === "code" && this.element.childNodes.length === this.kept + 1 && this.open.grow(only);
  }

  /** @param {Block[]} blocks */
  #replaceTail(blocks) {
    while (this.element.childNodes.length > this.kept) this.element.lastChild.remove();
    this.open = null;
    for (const block of blocks) {
      if (block.kind === "code" && block === blocks[blocks.length - 1]) {
        this.open = new CodeView(block);
        this.element.append(this.open.element);
      } else this.element.append(element(block));
    }
  }

  /**
   * Keeps the blocks before the last one, if its first two lines are complete: then they cannot go on one of those
   * before, nor begin a table with it.
   * @param {string} tail
   * @param {Block[]} blocks
   */
  #keep(tail, blocks) {
    const last = blocks[blocks.length - 1];
    if (blocks.length < 2) return;
    const offsets = lineOffsets(tail, last.line + 2);
    if (offsets.length <= last.line + 2) return;
    this.begins.push(...blocks.slice(0, -1).map((block) => this.base + offsets[block.line]));
    this.kept += blocks.length - 1;
    this.base += offsets[last.line];
  }

  /** Makes it all again if, seen as a whole, its blocks are others than those that were kept. */
  #settle() {
    const blocks = parse(this.text);
    const offsets = lineOffsets(this.text, Infinity);
    if (this.begins.some((begin, at) => blocks[at] === undefined || offsets[blocks[at].line] !== begin)) this.#again(this.text);
  }
}

/** @param {string} text @param {number} most @returns {number[]} letters at which lines begin, up to line `most` */
function lineOffsets(text, most) {
  const offsets = [0];
  for (let at = text.indexOf("\n"); at >= 0 && offsets.length <= most; at = text.indexOf("\n", at + 1)) offsets.push(at + 1);
  return offsets;
}

/**
 * Calls at most once a frame, and leaves the page three times as long as a call took: a long answer then slows its own
 * drawing and nothing else.
 */
export class Pace {
  /** @param {() => void} draw */
  constructor(draw) {
    this.draw = draw;
    this.planned = false;
    this.rest = 0;
  }

  ask() {
    if (this.planned) return;
    this.planned = true;
    setTimeout(() => requestAnimationFrame(() => this.now()), this.rest);
  }

  now() {
    this.planned = false;
    const start = performance.now();
    this.draw();
    this.rest = Math.min(3 * (performance.now() - start), 1000);
  }
}
