/**
 * What the pack asks the server for.
 *
 * @import { EventData, EventName, Texts } from "./run.js"
 * @import { ApiPrompt } from "./prompt.js"
 *
 * @typedef {object} KeptRuns the last runs of a graph's nodes
 * @property {string | null} running the id of the prompt that is running
 * @property {Record<string, [EventName, EventData][]>} runs the events of each, by node
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/**
 * The last runs of a graph's nodes, in whichever page their prompts were queued; undefined if the
 * server does not answer.
 *
 * @param {string} graphId
 * @returns {Promise<KeptRuns | undefined>}
 */
export async function fetchRuns(graphId) {
  return await fetchJson(`/teacache/runs/${encodeURIComponent(graphId)}`);
}

/**
 * The nodes of a prompt that is running, or has just ended.
 *
 * @param {string} promptId
 * @returns {Promise<{graphId?: string, nodes: ApiPrompt} | undefined>}
 */
export async function fetchPrompt(promptId) {
  const queue = await fetchJson("/queue");
  const running = queue?.queue_running.find(([, id]) => id === promptId);
  const entry = running ?? (await fetchJson(`/history/${promptId}`))?.[promptId]?.prompt;
  return entry && { graphId: entry[3]?.extra_pnginfo?.workflow?.id, nodes: entry[2] };
}

/**
 * The strip's phrases in the editor's language (`locales/LANGUAGE/main.json`), else in English.
 *
 * @returns {Promise<Texts>}
 */
export async function fetchTexts() {
  const languages = await fetchJson("/i18n");
  const language = app.extensionManager.setting.get("Comfy.Locale");
  return { ...languages?.en?.teacache, ...languages?.[language]?.teacache };
}

/** @param {string} route @returns {Promise<any>} undefined if the server does not answer it */
async function fetchJson(route) {
  try {
    const response = await api.fetchApi(route);
    return response.ok ? await response.json() : undefined;
  } catch (error) {
    if (error instanceof TypeError) return undefined; // no connection
    throw error;
  }
}
