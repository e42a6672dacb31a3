/**
 * @file Shapes of what the page keeps, for JSDoc; there is no code here.
 *
 * A conversation is a tree: an edited message or another answer is a sibling, and `head` says which leaf is shown.
 */

/**
 * @typedef {object} Stats
 * @property {number|null} prompt tokens of the prompt
 * @property {number|null} completion tokens of the answer
 * @property {number|null} cached tokens of the prompt that were not computed again
 * @property {number|null} perSecond tokens a second of the answer
 * @property {number|null} seconds from the request to the end of the answer
 */

/**
 * @typedef {object} Failure
 * @property {string} kind network, key, busy, loading, refused, server, cut
 * @property {string} message one line for people
 */

/**
 * @typedef {object} Node one message
 * @property {string} id
 * @property {string|null} parent the message before it; null begins a conversation
 * @property {"user"|"assistant"} role
 * @property {string} content
 * @property {string} thoughts what the model thought before it answered
 * @property {string} calls the tool calls it asked for, as JSON text, or ""
 * @property {"streaming"|"done"|"stopped"|"failed"} status
 * @property {string|null} finish the server's finish_reason
 * @property {Failure|null} failure
 * @property {string|null} model
 * @property {boolean} json whether the answer was held to a JSON schema
 * @property {Stats|null} stats
 * @property {number} created milliseconds since 1970
 */

/**
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {boolean} named whether a person gave the title
 * @property {number} created
 * @property {number} updated
 * @property {string} system the system prompt
 * @property {string} schema text of the JSON-schema box
 * @property {boolean} constrained whether answers are held to the schema
 * @property {string|null} head id of the leaf that is shown
 * @property {Node[]} nodes parents come before their children
 */

/**
 * @typedef {object} Model
 * @property {string} id
 */

/**
 * @typedef {object} Sampling null leaves a value to the server
 * @property {number|null} temperature
 * @property {number|null} top_k
 * @property {number|null} top_p
 * @property {number|null} min_p
 * @property {number|null} presence_penalty
 * @property {number|null} frequency_penalty
 * @property {number|null} repeat_penalty
 * @property {number|null} max_tokens
 * @property {number|null} seed
 * @property {string[]} stop
 */

export {};
