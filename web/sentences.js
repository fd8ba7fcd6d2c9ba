/**
 * What the server says in English, in the editor's language.
 *
 * The phrases whose key begins with `said ` are translations of such sentences, or of parts of
 * them. The key goes on with the English words, with `{name}` for what varies, which may be a part
 * with a phrase of its own. The first one that fits is taken.
 *
 * @import { Texts } from "./run.js"
 *
 * @typedef {object} Pattern
 * @property {string} key
 * @property {RegExp} expression
 * @property {boolean} joins whether it says nothing itself, but joins two parts
 */

const PREFIX = "said ";
const FIRST_PART = "{first}";

/** @type {WeakMap<Texts, Pattern[]>} */
const patterns = new WeakMap();

/**
 * A sentence in the language of the phrases; as it is, where there is none for it.
 *
 * @param {string} sentence
 * @param {Texts} texts
 * @returns {string}
 */
export function translate(sentence, texts) {
  for (const { key, expression, joins } of patternsOf(texts)) {
    const match = expression.exec(sentence);
    if (!match) continue;
    const parts = Object.entries(match.groups ?? {});
    const translated = parts.map(([name, part]) => [name, translate(part, texts)]);
    if (joins && translated.every(([, part], index) => part === parts[index][1])) continue;
    return format(texts[key], Object.fromEntries(translated));
  }
  return sentence;
}

/** @param {Texts} texts */
function patternsOf(texts) {
  let known = patterns.get(texts);
  if (!known) {
    known = Object.keys(texts).filter((key) => key.startsWith(PREFIX)).map(makePattern);
    patterns.set(texts, known);
  }
  return known;
}

/** @param {string} key @returns {Pattern} */
function makePattern(key) {
  const english = key.slice(PREFIX.length);
  const source = english
    .replace(/[.*+?^$()|[\]\\]/g, "\\$&")
    .replace(/\{(\w+)\}/g, "(?<$1>.+?)");
  return { key, expression: new RegExp(`^${source}$`, "su"), joins: english.includes(FIRST_PART) };
}

/**
 * Replaces each `{name}` in a phrase by its value.
 *
 * @param {string} text
 * @param {Record<string, unknown>} values
 */
export function format(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}
