/**
 * @file Light colouring of code: comments, strings, numbers and words of the language. One pass, no grammar: what it
 * does not know stays plain.
 */

const WORDS = {
  python: "and as assert async await break class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return True try while with yield",
  js: "async await break case catch class const continue default delete do else export extends false finally for from function if import in instanceof interface let new null of return static super switch this throw true try type typeof undefined var void while yield",
  c: "auto bool break case char class const constexpr continue default delete do double else enum extern false float for if include inline int long namespace new nullptr operator private protected public return short signed sizeof static struct switch template this throw true typedef typename union unsigned using virtual void volatile while",
  rust: "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while",
  go: "break case chan const continue default defer else fallthrough false for func go goto if import interface map nil package range return select struct switch true type var",
  java: "abstract boolean break case catch char class const continue default do double else enum extends false final finally float for if implements import instanceof int interface long new null package private protected public return short static super switch this throw throws true try val var void while",
  shell: "case do done elif else esac export fi for function if in local return then until while",
  sql: "add all alter and as asc between by case create cross default delete desc distinct drop else end exists foreign from full group having in index inner insert into is join key left like limit not null offset on or order outer primary references right select set table then union unique update values view when where with",
  json: "true false null",
};

/** Names of languages to their words, and what begins a comment to the end of the line. @type {Record<string, [keyof typeof WORDS, string]>} */
const LANGUAGES = {};
for (const [names, words, comment] of /** @type {[string, keyof typeof WORDS, string][]} */ ([
  ["python py python3", "python", "#"], ["javascript js jsx typescript ts tsx mjs", "js", "//"], ["c cpp c++ h hpp cc cuda csharp cs", "c", "//"],
  ["rust rs", "rust", "//"], ["go golang", "go", "//"], ["java kotlin kt scala swift", "java", "//"], ["bash sh shell zsh", "shell", "#"],
  ["sql sqlite postgresql mysql", "sql", "--"], ["json jsonc", "json", "//"], ["yaml yml toml", "json", "#"],
])) for (const name of names.split(" ")) LANGUAGES[name] = [words, comment];

const LARGEST = 100_000;

/**
 * @param {string} text
 * @param {string} language as a fence names it
 * @returns {{text: string, kind: ""|"comment"|"string"|"number"|"word"}[]|null} null: not a language that is known
 */
export function coloured(text, language) {
  const known = Object.hasOwn(LANGUAGES, language.toLowerCase()) ? LANGUAGES[language.toLowerCase()] : null;
  if (known === null || text.length > LARGEST) return null;
  const [words, comment] = known;
  const names = new Set(WORDS[words].split(" "));
  const strings = words === "python" ? String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|` : "";
  const block = comment === "//" ? String.raw`\/\*[^]*?(?:\*\/|$)|` : "";
  const pattern = new RegExp(
    `(${block}${comment === "#" ? "(?<![^\\s])#" : comment}[^\\n]*)|(${strings}"(?:[^"\\\\\\n]|\\\\[^])*"?|'(?:[^'\\\\\\n]|\\\\[^])*'?|\`(?:[^\`\\\\]|\\\\[^])*\`?)|(\\b\\d[\\w.]*)|([A-Za-z_]\\w*)`, "g");
  /** @type {{text: string, kind: ""|"comment"|"string"|"number"|"word"}[]} */
  const found = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    const word = match[4];
    const isWord = word !== undefined && names.has(words === "sql" ? word.toLowerCase() : word);
    if (word !== undefined && !isWord) continue;
    if (match.index > end) found.push({ text: text.slice(end, match.index), kind: "" });
    found.push({ text: match[0], kind: match[1] !== undefined ? "comment" : match[2] !== undefined ? "string" : match[3] !== undefined ? "number" : "word" });
    end = match.index + match[0].length;
  }
  if (end < text.length) found.push({ text: text.slice(end), kind: "" });
  return found;
}
