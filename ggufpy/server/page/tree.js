/**
 * @file Conversations as trees of messages. Functions change the conversation that they get; nothing is stored here.
 * @typedef {import("./types.js").Conversation} Conversation
 * @typedef {import("./types.js").Node} Node
 */
import { randomId } from "./dom.js";

/** @returns {Conversation} */
export function newConversation() {
  const now = Date.now();
  return {
    id: randomId(), title: "New conversation", named: false, created: now, updated: now,
    system: "", schema: "", constrained: false, head: null, nodes: [],
  };
}

/** @param {Conversation} conversation @returns {Map<string, Node>} */
export function index(conversation) {
  return new Map(conversation.nodes.map((node) => [node.id, node]));
}

/**
 * The messages that are shown, first to last.
 * @param {Conversation} conversation
 * @param {string|null} [leaf] another end than `head`
 * @returns {Node[]}
 */
export function path(conversation, leaf = conversation.head) {
  const nodes = index(conversation);
  const found = [];
  for (let node = leaf === null ? undefined : nodes.get(leaf); node !== undefined; node = nodes.get(node.parent ?? "")) found.push(node);
  return found.reverse();
}

/** The versions of a message, itself among them. @param {Conversation} conversation @param {Node} node */
export function versions(conversation, node) {
  return conversation.nodes.filter((other) => other.parent === node.parent && other.role === node.role);
}

/**
 * Shows a version of a message, and of what follows it the newest.
 * @param {Conversation} conversation
 * @param {Node} node
 */
export function choose(conversation, node) {
  let leaf = node;
  // Parents come before their children: one pass finds the newest line.
  for (const other of conversation.nodes) if (other.parent === leaf.id) leaf = newest(conversation, leaf);
  conversation.head = leaf.id;
}

/** @param {Conversation} conversation @param {Node} node @returns {Node} its newest child, or itself */
function newest(conversation, node) {
  return conversation.nodes.findLast((other) => other.parent === node.id) ?? node;
}

/** @param {Partial<Node>} given @returns {Node} */
function newNode(given) {
  return {
    id: randomId(), parent: null, role: "user", content: "", thoughts: "", calls: "", status: "done", finish: null,
    failure: null, model: null, json: false, stats: null, created: Date.now(), ...given,
  };
}

/**
 * A message of the user after `parent`; a conversation without a name takes its title from the first one.
 * @param {Conversation} conversation
 * @param {string|null} parent
 * @param {string} content
 * @returns {Node}
 */
export function addMessage(conversation, parent, content) {
  const node = newNode({ parent, content });
  conversation.nodes.push(node);
  conversation.head = node.id;
  if (!conversation.named && parent === null) conversation.title = titleOf(content);
  return node;
}

/**
 * An empty answer to a message, shown at once.
 * @param {Conversation} conversation
 * @param {string} parent
 * @param {string|null} model
 * @returns {Node}
 */
export function addAnswer(conversation, parent, model) {
  // An attempt from which nothing came is no version worth keeping.
  conversation.nodes = conversation.nodes.filter((node) => node.parent !== parent || !isEmptyFailure(node));
  const node = newNode({ parent, role: "assistant", status: "streaming", model, json: conversation.constrained });
  conversation.nodes.push(node);
  conversation.head = node.id;
  return node;
}

/** @param {Node} node */
export function isEmpty(node) {
  return node.content === "" && node.thoughts === "" && node.calls === "";
}

/** @param {Node} node */
function isEmptyFailure(node) {
  return node.role === "assistant" && node.status !== "done" && isEmpty(node);
}

/** @param {string} text */
export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0].trim();
  const letters = [...line];
  return letters.length > 60 ? `${letters.slice(0, 59).join("").trimEnd()}…` : line || "New conversation";
}

/**
 * Tokens that the newest finished answer and all before it took.
 * @param {Conversation} conversation
 * @returns {number|null}
 */
export function tokensUsed(conversation) {
  const stats = path(conversation).findLast((node) => node.stats?.prompt != null)?.stats;
  return stats ? stats.prompt + (stats.completion ?? 0) : null;
}

/**
 * The messages to send for an answer after the node `leaf`. Roles alternate, as many chat templates demand: answers of
 * which nothing came are left out, and messages that then follow one another are joined. Tool calls go as text: the
 * page runs no tools, so that there is no result to send with them.
 * @param {Conversation} conversation
 * @param {string} leaf
 * @returns {{role: string, content: string}[]}
 */
export function messages(conversation, leaf) {
  const sent = [];
  if (conversation.system.trim() !== "") sent.push({ role: "system", content: conversation.system });
  for (const node of path(conversation, leaf)) {
    const content = [node.content, node.calls].filter((text) => text !== "").join("\n");
    if (node.role === "assistant" && content === "") continue;
    const last = sent.at(-1);
    if (last?.role === node.role) last.content += `\n\n${content}`;
    else sent.push({ role: node.role, content });
  }
  return sent;
}
