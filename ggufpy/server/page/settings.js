/** @file The settings dialog. A value holds as soon as it is right; one that is not says so beside its box. */
import { byId, h } from "./dom.js";
import { hasKey, setKey } from "./api.js";
import { openDialog } from "./dialogs.js";
import { FIELDS, readField, readMore } from "./fields.js";
import { noSampling, savePrefs, setTheme, theme } from "./prefs.js";

/** @typedef {import("./prefs.js").Prefs} Prefs */

const THEMES = { auto: "as the system", light: "light", dark: "dark" };

/**
 * @typedef {object} Actions
 * @property {() => void} key asks for an API key
 * @property {() => void} exportAll
 * @property {(file: File) => Promise<string>} importFile says what is wrong, or ""
 * @property {() => void} deleteAll
 */

export class Settings {
  /** @param {Prefs} prefs @param {Actions} actions */
  constructor(prefs, actions) {
    this.prefs = prefs;
    this.actions = actions;
    this.dialog = byId("settings-dialog");
    /** @type {Map<string, HTMLInputElement>} */
    this.inputs = new Map();
    byId("fields").append(...FIELDS.map((field) => this.fieldElement(field)));
    byId("stops").addEventListener("input", () => this.readStops());
    byId("more").addEventListener("input", () => this.readMore());
    byId("sampling-reset").addEventListener("click", () => this.reset());
    byId("switch-theme").addEventListener("click", () => this.nextTheme());
    for (const radio of this.dialog.querySelectorAll("[name=theme]")) radio.addEventListener("change", () => this.setTheme(radio.value));
    byId("key-change").addEventListener("click", () => actions.key());
    byId("key-forget").addEventListener("click", () => {
      setKey(null, false);
      this.showKey();
    });
    byId("export-all").addEventListener("click", () => actions.exportAll());
    byId("delete-all").addEventListener("click", () => actions.deleteAll());
    const file = byId("import-file");
    byId("import").addEventListener("click", () => file.click());
    file.addEventListener("change", async () => {
      if (file.files.length > 0) byId("import-error").textContent = await actions.importFile(file.files[0]);
      file.value = "";
    });
    this.setTheme(theme());
  }

  /** @param {import("./fields.js").Field} field */
  fieldElement(field) {
    const { name, label, help } = field;
    const input = h("input", { id: `field-${name}`, type: "text", inputmode: field.whole ? "numeric" : "decimal", autocomplete: "off", "aria-describedby": `help-${name} error-${name}` });
    const error = h("p", { class: "field-error", id: `error-${name}`, role: "status" });
    input.addEventListener("input", () => {
      const read = readField(field, input.value);
      error.textContent = read.error;
      input.setAttribute("aria-invalid", String(read.error !== ""));
      if (read.error !== "") return;
      this.prefs.sampling[name] = read.value;
      savePrefs(this.prefs);
    });
    this.inputs.set(name, input);
    return h("div", { class: "field" }, h("label", { for: input.id, text: label }), input, h("p", { class: "note", id: `help-${name}`, text: help }), error);
  }

  readStops() {
    this.prefs.sampling.stop = byId("stops").value.split("\n").filter((line) => line !== "");
    savePrefs(this.prefs);
  }

  readMore() {
    const text = byId("more").value;
    const { error } = readMore(text);
    byId("more-error").textContent = error;
    byId("more").setAttribute("aria-invalid", String(error !== ""));
    if (error !== "") return;
    this.prefs.more = text;
    savePrefs(this.prefs);
  }

  reset() {
    this.prefs.sampling = noSampling();
    this.prefs.more = "";
    savePrefs(this.prefs);
    this.fill();
  }

  /** Puts what holds into the boxes. */
  fill() {
    for (const [name, input] of this.inputs) {
      const value = this.prefs.sampling[name];
      input.value = value === null ? "" : String(value);
      input.setAttribute("aria-invalid", "false");
      byId(`error-${name}`).textContent = "";
    }
    byId("stops").value = this.prefs.sampling.stop.join("\n");
    byId("more").value = this.prefs.more;
    this.readMore();
    byId("import-error").textContent = "";
  }

  /** What the server takes for a box that is empty. @param {Record<string, any>} defaults as /props has them */
  setDefaults(defaults) {
    for (const [name, input] of this.inputs) {
      const value = defaults[name];
      const shown = typeof value === "number" && value >= 0 && name !== "seed" ? String(Math.round(value * 1000) / 1000) : "";
      input.placeholder = shown === "" ? "server’s choice" : shown;
    }
  }

  /** @param {"auto"|"light"|"dark"} chosen */
  setTheme(chosen) {
    setTheme(chosen);
    for (const radio of this.dialog.querySelectorAll("[name=theme]")) radio.checked = radio.value === chosen;
    const label = `Theme: ${THEMES[chosen]}`;
    byId("switch-theme").setAttribute("aria-label", label);
    byId("switch-theme").title = label;
  }

  nextTheme() {
    /** @type {("auto"|"light"|"dark")[]} */
    const order = ["auto", "light", "dark"];
    this.setTheme(order[(order.indexOf(theme()) + 1) % order.length]);
  }

  showKey() {
    byId("key-state").textContent = hasKey() ? "Requests carry a key." : "Requests carry no key. A server started with --api-key wants one.";
    byId("key-forget").disabled = !hasKey();
  }

  /** @param {number} conversations @param {boolean} kept whether the browser keeps them */
  open(conversations, kept) {
    this.fill();
    this.showKey();
    const count = conversations === 1 ? "One conversation" : `${conversations} conversations`;
    byId("data-state").textContent = kept ? `${count}, kept in this browser and nowhere else.` : `${count}. This browser keeps nothing: they are gone when the tab closes.`;
    for (const id of ["export-all", "delete-all"]) byId(id).disabled = conversations === 0;
    if (!this.dialog.open) openDialog(this.dialog);
  }
}
