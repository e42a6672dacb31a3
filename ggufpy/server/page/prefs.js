/**
 * @file What a person chose, kept in the browser's storage. What is found there is checked: anything may have written it.
 * @typedef {import("./types.js").Sampling} Sampling
 */
import { FIELDS, readField } from "./fields.js";

const KEPT = "ggufpy.prefs";
const THEME = "ggufpy.theme";
const DRAFTS = "ggufpy.drafts";

/** @typedef {{sampling: Sampling, more: string, model: string|null}} Prefs */

/** @param {string} name @returns {any} the JSON value kept under a name, or null */
function load(name) {
  try {
    return JSON.parse(localStorage.getItem(name) ?? "null");
  } catch {
    return null;
  }
}

/** @param {string} name @param {any} value @returns {boolean} whether it is kept */
function save(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** @returns {Sampling} all left to the server */
export function noSampling() {
  /** @type {any} */
  const all = Object.fromEntries(FIELDS.map((field) => [field.name, null]));
  return { ...all, stop: [] };
}

/** @returns {Prefs} */
export function loadPrefs() {
  const kept = load(KEPT) ?? {};
  const sampling = noSampling();
  for (const field of FIELDS) sampling[field.name] = readField(field, String(kept.sampling?.[field.name] ?? "")).value;
  if (Array.isArray(kept.sampling?.stop)) sampling.stop = kept.sampling.stop.filter((stop) => typeof stop === "string" && stop !== "");
  return {
    sampling,
    more: typeof kept.more === "string" ? kept.more : "",
    model: typeof kept.model === "string" ? kept.model : null,
  };
}

/** @param {Prefs} prefs */
export function savePrefs(prefs) {
  save(KEPT, prefs);
}

/** @returns {"auto"|"light"|"dark"} */
export function theme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === "light" || chosen === "dark" ? chosen : "auto";
}

/** @param {"auto"|"light"|"dark"} chosen */
export function setTheme(chosen) {
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  try {
    localStorage.setItem(THEME, chosen);
  } catch {
    // Storage is closed to this page: the choice lasts as long as the tab.
  }
}

/** What is typed and not sent, a conversation each; "" is the one that does not exist yet. */
export const drafts = {
  /** @param {string} id @returns {string} */
  get(id) {
    const text = load(DRAFTS)?.[id];
    return typeof text === "string" ? text : "";
  },
  /** @param {string} id @param {string} text */
  set(id, text) {
    const all = { ...load(DRAFTS) };
    if (text === "") delete all[id];
    else all[id] = text;
    save(DRAFTS, all);
  },
};
