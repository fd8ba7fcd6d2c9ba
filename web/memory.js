/**
 * The last runs in the browser's local storage, to be shown again after a reload.
 *
 * @import { Run } from "./run.js"
 * @typedef {[string, Run][]} StoredRuns runs by key, oldest first
 */

const STORAGE_KEY = "TeaCache.runs";
const MAX_RUNS = 8;

/**
 * The key of a node's run.
 *
 * @param {string} graphId
 * @param {string} executionId
 */
export function runKey(graphId, executionId) {
  return `${graphId}/${executionId}`;
}

/** @param {string} key @returns {[string, string]} the ids of the graph and of the node */
export function splitKey(key) {
  const slash = key.lastIndexOf("/");
  return [key.slice(0, slash), key.slice(slash + 1)];
}

/**
 * The stored runs by key, oldest first; none where what is stored cannot be read.
 *
 * @param {Storage} storage
 * @returns {Map<string, Run>}
 */
export function loadRuns(storage) {
  try {
    return new Map(/** @type {StoredRuns} */ (JSON.parse(storage.getItem(STORAGE_KEY) ?? "[]")));
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError) return new Map();
    throw error;
  }
}

/**
 * Stores the newest finished runs, fewer of them if the storage is full.
 *
 * @param {Storage} storage
 * @param {Map<string, Run>} runs by key, in the order in which they ended
 */
export function saveRuns(storage, runs) {
  /** @type {StoredRuns} */
  let stored = [...runs].filter(([, run]) => !run.live && run.state !== "waiting").slice(-MAX_RUNS);
  while (!write(storage, stored) && stored.length) stored = stored.slice(1);
}

/**
 * @param {Storage} storage
 * @param {StoredRuns} stored
 * @returns {boolean} false if the storage is full
 */
function write(storage, stored) {
  try {
    storage.setItem(STORAGE_KEY, JSON.stringify(stored));
    return true;
  } catch (error) {
    if (error instanceof DOMException && error.name === "QuotaExceededError") return false;
    throw error;
  }
}
