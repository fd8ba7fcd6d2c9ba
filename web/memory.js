/**
 * The last runs, kept in the browser so that they are there again after a reload.
 *
 * @import { Run } from "./run.js"
 * @typedef {[string, Run][]} Kept oldest first
 */

const KEY = "TeaCache.runs";
const MOST = 8;

/** @param {string} graphId @param {string} executionId */
export function keyOf(graphId, executionId) {
  return `${graphId}/${executionId}`;
}

/** @param {Storage} storage @returns {Map<string, Run>} */
export function recall(storage) {
  try {
    return new Map(/** @type {Kept} */ (JSON.parse(storage.getItem(KEY) ?? "[]")));
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError) return new Map();
    throw error;
  }
}

/**
 * Keeps the finished runs of `runs`, the newest first to stay.
 *
 * @param {Storage} storage
 * @param {Map<string, Run>} runs in the order in which they ended
 */
export function keep(storage, runs) {
  /** @type {Kept} */
  let kept = [...runs].filter(([, run]) => !run.live).slice(-MOST);
  while (!write(storage, kept) && kept.length) kept = kept.slice(1);
}

/** @param {Storage} storage @param {Kept} kept @returns {boolean} whether there was room */
function write(storage, kept) {
  try {
    storage.setItem(KEY, JSON.stringify(kept));
    return true;
  } catch (error) {
    if (error instanceof DOMException && error.name === "QuotaExceededError") return false;
    throw error;
  }
}
