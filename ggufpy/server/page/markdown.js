/**
 * @file Markdown in blocks: text in, a tree of blocks out (after CommonMark 0.31 and GitHub's tables and task lists).
 * Left out, as answers do not have them: HTML, reference definitions, code by indentation at the top.
 */

/**
 * `line` is where a block begins, in the lines that were parsed.
 * @typedef {{kind: "heading", line: number, level: number, text: string}} Heading
 * @typedef {{kind: "paragraph", line: number, text: string}} Paragraph
 * @typedef {{kind: "code", line: number, text: string, language: string, closed: boolean}} Code closed: its end has come
 * @typedef {{kind: "quote", line: number, blocks: Block[]}} Quote
 * @typedef {{kind: "list", line: number, start: number|null, tight: boolean, items: Item[]}} List start: its first number
 * @typedef {{task: boolean|null, blocks: Block[]}} Item
 * @typedef {{kind: "table", line: number, rows: string[][], align: ("left"|"right"|"center"|null)[]}} Table the head first
 * @typedef {{kind: "rule", line: number}} Rule
 * @typedef {Heading|Paragraph|Code|Quote|List|Table|Rule} Block
 */

const DEEPEST = 16;
const MOST_COLUMNS = 100;
const BLANK = /^\s*$/;
const FENCE = /^( {0,3})(`{3,}(?=[^`]*$)|~{3,})\s*([^\s`]*)/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-+*]|\d{1,9}[.)])(?:( {1,4})(?=\S)|[ \t]+|$)/;
const DELIMITERS = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** @param {string} text @returns {Block[]} */
export function parse(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

/** @param {string[]} lines @param {number} depth of the containers around them @returns {Block[]} */
function blocks(lines, depth) {
  /** @type {Block[]} */
  const found = [];
  for (let at = 0; at < lines.length; ) {
    if (BLANK.test(lines[at])) {
      at += 1;
      continue;
    }
    const [block, next] = fence(lines, at) ?? single(lines, at) ?? table(lines, at) ?? (depth < DEEPEST ? container(lines, at, depth) : null) ?? paragraph(lines, at, depth);
    found.push(block);
    at = next;
  }
  return found;
}

/** @typedef {[Block, number]|null} Parsed a block, and the line after it */

/** @param {string[]} lines @param {number} at @returns {Parsed} */
function fence(lines, at) {
  const opening = FENCE.exec(lines[at]);
  if (opening === null) return null;
  const [, indent, ticks, language] = opening;
  const closing = new RegExp(`^ {0,3}${ticks[0]}{${ticks.length},}[ \\t]*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const strip = new RegExp(`^ {0,${indent.length}}`);
  const text = lines.slice(at + 1, end).map((line) => line.replace(strip, "")).join("\n");
  const closed = end < lines.length;
  return [{ kind: "code", line: at, text, language: language.slice(0, 40), closed }, closed ? end + 1 : end];
}

/** A heading or a rule. @param {string[]} lines @param {number} at @returns {Parsed} */
function single(lines, at) {
  const heading = HEADING.exec(lines[at]);
  if (heading !== null) {
    const text = (heading[2] ?? "").trim().replace(/(^|[ \t])#+$/, "").trimEnd();
    return [{ kind: "heading", line: at, level: heading[1].length, text }, at + 1];
  }
  return RULE.test(lines[at]) ? [{ kind: "rule", line: at }, at + 1] : null;
}

/** @param {string[]} lines @param {number} at */
function beginsTable(lines, at) {
  const delimiters = lines[at + 1];
  if (delimiters === undefined || !lines[at].includes("|") || !DELIMITERS.test(delimiters) || !delimiters.includes("-")) return false;
  return cells(lines[at]).length === cells(delimiters).length;
}

/** @param {string[]} lines @param {number} at @returns {Parsed} */
function table(lines, at) {
  if (!beginsTable(lines, at)) return null;
  const align = cells(lines[at + 1]).map((cell) => /^:-*:$/.test(cell) ? "center" : cell.endsWith(":") ? "right" : cell.startsWith(":") ? "left" : null);
  const rows = [cells(lines[at])];
  let end = at + 2;
  for (; end < lines.length && !BLANK.test(lines[end]) && !interrupts(lines, end, 0); end++) {
    const row = cells(lines[end]).slice(0, align.length);
    rows.push([...row, ...Array(align.length - row.length).fill("")]);
  }
  return [{ kind: "table", line: at, rows, align }, end];
}

/** @param {string} line @returns {string[]} texts between bars; a bar after a backslash or in code is text */
function cells(line) {
  const found = [];
  let cell = "";
  let ticks = false;
  const text = line.trim().replace(/^\|/, "");
  for (let at = 0; at < text.length && found.length < MOST_COLUMNS; at++) {
    if (text[at] === "\\" && text[at + 1] === "|") {
      cell += "|";
      at += 1;
    } else if (text[at] === "|" && !(ticks && text.indexOf("`", at) > 0)) {
      found.push(cell.trim());
      cell = "";
    } else {
      if (text[at] === "`") ticks = !ticks;
      cell += text[at];
    }
  }
  if (cell.trim() !== "") found.push(cell.trim());
  return found;
}

/** A quote or a list. @param {string[]} lines @param {number} at @param {number} depth @returns {Parsed} */
function container(lines, at, depth) {
  if (QUOTE.test(lines[at])) return quote(lines, at, depth);
  return ITEM.test(lines[at]) ? list(lines, at, depth) : null;
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[Block, number]} */
function quote(lines, at, depth) {
  const inside = [];
  let end = at;
  for (; end < lines.length; end++) {
    if (QUOTE.test(lines[end])) inside.push(lines[end].replace(QUOTE, ""));
    else if (BLANK.test(lines[end]) || BLANK.test(inside[inside.length - 1]) || interrupts(lines, end, depth)) break;
    else inside.push(lines[end]);
  }
  return [{ kind: "quote", line: at, blocks: blocks(inside, depth + 1) }, end];
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[List, number]} */
function list(lines, at, depth) {
  const first = ITEM.exec(lines[at])[2];
  const ordered = /\d/.test(first);
  const items = [];
  let tight = true;
  let end = at;
  while (end < lines.length) {
    const mark = ITEM.exec(lines[end]);
    // Another sign begins another list, and three of them are a rule.
    if (mark === null || mark[2].at(-1) !== first.at(-1) || RULE.test(lines[end])) break;
    const [inside, next, blank] = item(lines, end, mark, depth);
    const task = /^\[([ xX])\](?=\s)\s?/.exec(inside[0]);
    if (task !== null) inside[0] = inside[0].slice(task[0].length);
    const parsed = blocks(inside, depth + 1);
    items.push({ task: task === null ? null : task[1] !== " ", blocks: parsed });
    if (parsed.length > 1 && inside.some((line, row) => row > 0 && BLANK.test(line) && parsed.some((each) => each.line === row + 1 && each.kind === "paragraph"))) tight = false;
    end = next;
    if (blank && end < lines.length && sameList(lines[end], first)) tight = false;
  }
  // Blank lines after the last item belong to nobody.
  return [{ kind: "list", line: at, start: ordered ? Number.parseInt(first, 10) : null, tight, items }, end];
}

/** @param {string} line @param {string} first the sign of the first item */
function sameList(line, first) {
  return ITEM.exec(line)?.[2].at(-1) === first.at(-1);
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {RegExpExecArray} mark of its first line
 * @param {number} depth
 * @returns {[string[], number, boolean]} its lines without their margin, the line after it, whether a blank line ended it
 */
function item(lines, at, mark, depth) {
  const margin = mark[1].length + mark[2].length + (mark[3]?.length ?? 1);
  const inside = [lines[at].slice(Math.min(margin, lines[at].length))];
  let end = at + 1;
  let blank = false;
  for (; end < lines.length; end++) {
    const line = lines[end].replace(/^\t+/, (tabs) => "    ".repeat(tabs.length));
    const indent = line.length - line.trimStart().length;
    if (BLANK.test(line)) blank = true;
    else if (indent >= margin) blank = false;
    // Models indent what is in a numbered item by too few: two signs and more are taken as inside.
    else if (indent >= 2 && indent > mark[1].length && ITEM.test(line.trimStart())) blank = false;
    else if (blank || interrupts(lines, end, depth) || ITEM.test(line)) break;
    inside.push(indent >= margin ? line.slice(margin) : line.trimStart());
  }
  while (inside.length > 1 && BLANK.test(inside[inside.length - 1])) inside.pop();
  return [inside, end, blank];
}

/** Whether a line cannot go on a paragraph. @param {string[]} lines @param {number} at @param {number} depth */
function interrupts(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line) || /^ {0,3}#{1,6}(?:[ \t]|$)/.test(line) || RULE.test(line)) return true;
  if (depth >= DEEPEST) return false;
  // A paragraph is not broken by a number other than 1, nor by an empty item: both happen in running text.
  return QUOTE.test(line) || /^ {0,3}(?:[-+*]|1[.)])[ \t]+\S/.test(line);
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[Block, number]} */
function paragraph(lines, at, depth) {
  let end = at + 1;
  for (; end < lines.length && !BLANK.test(lines[end]); end++) {
    const underline = UNDERLINE.exec(lines[end]);
    if (underline !== null) {
      const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
      return [{ kind: "heading", line: at, level: underline[1][0] === "=" ? 1 : 2, text }, end + 1];
    }
    if (interrupts(lines, end, depth) || beginsTable(lines, end)) break;
  }
  const text = lines.slice(at, end).map((line) => line.trimStart()).join("\n").trimEnd();
  return [{ kind: "paragraph", line: at, text }, end];
}
