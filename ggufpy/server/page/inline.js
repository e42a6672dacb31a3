/**
 * @file Markdown within a line: emphasis, code, links. Text in, a flat list of events out, in time that grows with the
 * text alone (after https://spec.commonmark.org/0.31.2/#phase-2-inline-structure). HTML is text.
 */

/**
 * @typedef {{kind: "text"|"code", text: string}|{kind: "break"}|{kind: "open", tag: string, href?: string}|{kind: "close", tag: string}} Event
 */

/**
 * @typedef {object} Run a run of `*`, `_` or `~` that may open or close
 * @property {string} sign
 * @property {number} size at first
 * @property {number} left signs that are not used
 * @property {boolean} opens
 * @property {boolean} closes
 * @property {Event[]} before ends of elements, in their order
 * @property {Event[]} after beginnings of elements, the last one first
 */

/** Schemes that a link may have. What a model writes is a stranger's: no javascript:, no data:, no own addresses. */
const SCHEMES = new Set(["http:", "https:", "mailto:"]);

/** @param {string} address @returns {string|null} the address as a browser reads it, or null where it is not safe */
export function safeAddress(address) {
  try {
    const url = new URL(address);
    return SCHEMES.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

const SPECIAL = /[\\`*_~[\]!<\n]|https?:\/\//g;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/y;
const BARE = /https?:\/\/[^\s<>`"]{1,2000}/y;
const BREAK_TAG = /<br ?\/?>/iy;
const DESTINATION = /\(\s{0,8}(?:<([^<>\n]{0,2000})>|([^\s()<>]{0,2000}(?:\([^\s()<>]{0,500}\)[^\s()<>]{0,500}){0,4}))(?:\s{1,8}(?:"[^"\n]{0,500}"|'[^'\n]{0,500}'))?\s{0,8}\)/y;
const SPACE = /\s/u;
const PUNCTUATION = /[\p{P}\p{S}]/u;

class Inline {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
    this.at = 0;
    /** @type {(Event|Run|null)[]} */
    this.items = [];
    /** Items of the brackets that may begin a link. @type {number[]} */
    this.brackets = [];
    /** Lengths of runs of backticks that have no equal further on. @type {Set<number>} */
    this.unclosed = new Set();
  }

  /** @param {string} text */
  put(text) {
    const last = this.items.at(-1);
    // What stands before a bracket must not grow into it.
    if (last && "kind" in last && last.kind === "text" && this.brackets.at(-1) !== this.items.length - 1) last.text += text;
    else this.items.push({ kind: "text", text });
  }

  /** @returns {Event[]} */
  parse() {
    const { text } = this;
    while (this.at < text.length) {
      SPECIAL.lastIndex = this.at;
      const found = SPECIAL.exec(text);
      const next = found === null ? text.length : found.index;
      if (next > this.at) this.put(text.slice(this.at, next));
      this.at = next;
      if (found !== null) this.special(found[0]);
    }
    emphasize(this.items, 0);
    return events(this.items);
  }

  /** @param {string} sign */
  special(sign) {
    if (sign === "\\") this.escape();
    else if (sign === "`") this.code();
    else if (sign === "*" || sign === "_" || sign === "~") this.run(sign);
    else if (sign === "\n") this.newline();
    else if (sign === "<") this.angle();
    else if (sign === "[") this.bracket("[");
    else if (sign === "!") this.text[this.at + 1] === "[" ? this.bracket("![") : this.plain(1);
    else if (sign === "]") this.closeBracket();
    else this.bare();
  }

  /** @param {number} length */
  plain(length) {
    this.put(this.text.slice(this.at, this.at + length));
    this.at += length;
  }

  escape() {
    const next = this.text[this.at + 1] ?? "";
    if (next === "\n") this.items.push({ kind: "break" });
    else this.put(/[!-/:-@[-`{-~]/.test(next) ? next : `\\${next}`);
    this.at += 2;
  }

  newline() {
    const last = this.items.at(-1);
    const hard = last && "kind" in last && last.kind === "text" && last.text.endsWith("  ");
    if (hard) this.items.push({ kind: "break" });
    else this.put("\n");
    this.at += 1;
  }

  code() {
    const ticks = /`+/y;
    ticks.lastIndex = this.at;
    const opening = ticks.exec(this.text)[0];
    let end = -1;
    if (!this.unclosed.has(opening.length)) {
      const each = /`+/g;
      each.lastIndex = this.at + opening.length;
      for (let run = each.exec(this.text); run !== null && end < 0; run = each.exec(this.text)) if (run[0].length === opening.length) end = run.index;
      if (end < 0) this.unclosed.add(opening.length);
    }
    if (end < 0) {
      this.plain(opening.length);
      return;
    }
    let inside = this.text.slice(this.at + opening.length, end).replace(/\n/g, " ");
    if (inside.startsWith(" ") && inside.endsWith(" ") && inside.trim() !== "") inside = inside.slice(1, -1);
    this.items.push({ kind: "code", text: inside });
    this.at = end + opening.length;
  }

  angle() {
    for (const pattern of [AUTOLINK, BREAK_TAG]) pattern.lastIndex = this.at;
    const link = AUTOLINK.exec(this.text);
    const broken = link === null ? BREAK_TAG.exec(this.text) : null;
    if (link !== null && safeAddress(link[1]) !== null) {
      this.link(link[1], link[1]);
      this.at += link[0].length;
    } else if (broken !== null) {
      this.items.push({ kind: "break" });
      this.at += broken[0].length;
    } else this.plain(1);
  }

  /** An address in the text; what ends a sentence after it is not of it. */
  bare() {
    BARE.lastIndex = this.at;
    const found = BARE.exec(this.text)?.[0] ?? "";
    let address = found.replace(/[.,;:!?'*_~]+$/, "");
    for (let more = 0; more < 4 && /[)\]]$/.test(address) && address.split(/[([]/).length < address.split(/[)\]]/).length; more++) address = address.slice(0, -1);
    if (safeAddress(address) === null) this.plain(Math.max(address.length, 1));
    else {
      this.link(address, address);
      this.at += address.length;
    }
  }

  /** @param {string} address @param {string} label */
  link(address, label) {
    this.items.push({ kind: "open", tag: "a", href: safeAddress(address) ?? "" }, { kind: "text", text: label }, { kind: "close", tag: "a" });
  }

  /** @param {string} sign */
  bracket(sign) {
    this.items.push({ kind: "text", text: sign });
    this.brackets.push(this.items.length - 1);
    this.at += sign.length;
  }

  closeBracket() {
    const opener = this.brackets.pop();
    DESTINATION.lastIndex = this.at + 1;
    const found = opener === undefined ? null : DESTINATION.exec(this.text);
    const href = found === null ? null : safeAddress(found[1] ?? found[2]);
    if (opener === undefined || found === null || href === null) {
      this.plain(1);
      return;
    }
    emphasize(this.items, opener + 1);
    // There are no links in links: neither those inside this one, nor one around it.
    for (let at = opener + 1; at < this.items.length; at++) {
      const item = this.items[at];
      if (item !== null && "tag" in item && item.tag === "a") this.items[at] = null;
    }
    this.brackets = [];
    // An image is not fetched from elsewhere: its place has a link with its description.
    this.items[opener] = { kind: "open", tag: "a", href };
    if (opener === this.items.length - 1) this.items.push({ kind: "text", text: href });
    this.items.push({ kind: "close", tag: "a" });
    this.at += 1 + found[0].length;
  }

  /** @param {string} sign */
  run(sign) {
    const { text, at } = this;
    let end = at;
    while (text[end] === sign) end += 1;
    const before = at === 0 ? " " : text[at - 1];
    const after = end >= text.length ? " " : String.fromCodePoint(text.codePointAt(end));
    const left = !SPACE.test(after) && (!PUNCTUATION.test(after) || SPACE.test(before) || PUNCTUATION.test(before));
    const right = !SPACE.test(before) && (!PUNCTUATION.test(before) || SPACE.test(after) || PUNCTUATION.test(after));
    const size = end - at;
    const inWord = sign === "_";
    this.items.push({
      sign, size, left: size, before: [], after: [],
      opens: sign === "~" ? left && size === 2 : left && (!inWord || !right || PUNCTUATION.test(before)),
      closes: sign === "~" ? right && size === 2 : right && (!inWord || !left || PUNCTUATION.test(after)),
    });
    this.at = end;
  }
}

/**
 * Pairs the runs from an item on (CommonMark's "process emphasis"); they are done with then.
 * @param {(Event|Run|null)[]} items
 * @param {number} from
 */
function emphasize(items, from) {
  /** @type {Run[]} */
  const open = [];
  /** Below these heights there is nothing to pair with, for each kind of closer. @type {Map<string, number>} */
  const bottoms = new Map();
  for (let at = from; at < items.length; at++) {
    const run = items[at];
    if (run === null || !("sign" in run)) continue;
    const kind = `${run.sign}${run.opens}${run.size % 3}`;
    while (run.closes && run.left > 0) {
      const found = opener(open, run, bottoms.get(kind) ?? 0);
      if (found < 0) {
        bottoms.set(kind, open.length);
        break;
      }
      const other = open[found];
      const strong = other.left > 1 && run.left > 1;
      const tag = run.sign === "~" ? "del" : strong ? "strong" : "em";
      for (const each of [other, run]) each.left -= strong ? 2 : 1;
      other.after.push({ kind: "open", tag });
      run.before.push({ kind: "close", tag });
      open.length = other.left > 0 ? found + 1 : found;
      for (const [name, height] of bottoms) if (height > open.length) bottoms.set(name, open.length);
    }
    if (run.opens && run.left > 0) open.push(run);
  }
  // A run that found no partner within a link must not find one outside.
  for (let at = from; at < items.length; at++) {
    const run = items[at];
    if (run !== null && "sign" in run) run.opens = run.closes = false;
  }
}

/** @param {Run[]} open @param {Run} run @param {number} bottom @returns {number} */
function opener(open, run, bottom) {
  for (let at = open.length - 1; at >= bottom; at--) {
    const other = open[at];
    if (other.sign !== run.sign || (run.sign === "~" && other.left !== run.left)) continue;
    const odd = (other.closes || run.opens) && (other.size + run.size) % 3 === 0 && (other.size % 3 !== 0 || run.size % 3 !== 0);
    if (!odd) return at;
  }
  return -1;
}

/** @param {(Event|Run|null)[]} items @returns {Event[]} */
function events(items) {
  /** @type {Event[]} */
  const found = [];
  for (const item of items) {
    if (item === null) continue;
    if (!("sign" in item)) found.push(item);
    else {
      for (const end of item.before) found.push(end);
      if (item.left > 0) found.push({ kind: "text", text: item.sign.repeat(item.left) });
      for (const begin of item.after.reverse()) found.push(begin);
    }
  }
  return found;
}

/** @param {string} text @returns {Event[]} */
export function inline(text) {
  return new Inline(text).parse();
}
