/**
 * The strips of all nodes, and the runs that they show.
 *
 * @import { EventData, EventName, Run, Texts } from "./run.js"
 * @import { Strip } from "./strip.js"
 */

import { app } from "../../scripts/app.js";
import { findNode, nodesOf } from "./graph.js";
import { loadRuns, runKey, saveRuns, splitKey } from "./memory.js";
import { isPending } from "./prompt.js";
import { afterPrompt, applyEvent, beginsLate, NO_RUN, supersedes, waiting } from "./run.js";
import { fetchPrompt, fetchRuns } from "./server.js";
import { makeStrip } from "./strip.js";
import { grow, MARGIN } from "./widgets.js";

export const STRIP_NODES = ["ApplyTeaCache", "ApplyTeaCacheDiffusers", "ApplyTeaCacheWanVideo"];
const STRIP_WIDGET = "teacache_strip";

export class Strips {
  /** @type {Map<string, Run>} runs by key, in the order of their last events */
  runs = loadRuns(localStorage);
  /** @type {WeakMap<object, Strip>} strips by node */
  strips = new WeakMap();
  /** @type {Texts} */
  texts = {};
  /** @type {Map<string, Run | undefined>} by key, what waiting nodes showed before */
  before = new Map();
  /** @type {Set<string>} keys of the nodes with events since the last prompt started */
  heard = new Set();
  /** @type {{id: string, state: "running" | "done" | "failed"} | undefined} this page's last one */
  prompt;
  /** Whether runs are being asked for, and whether to ask again afterwards. */
  asking = false;
  askAgain = false;

  /** Of the shown workflow; undefined while the editor starts. */
  get graph() {
    return app.rootGraph ?? app.graph;
  }

  /** Whether strips are shown, as the setting says. */
  enabled = true;

  /** Adds the strip to a node or removes it, as the setting says. */
  updateNode(node) {
    const present = this.strips.has(node);
    if (this.enabled && !present) this.add(node);
    if (!this.enabled && present) this.remove(node);
  }

  /** @param {boolean} enabled */
  setEnabled(enabled) {
    this.enabled = enabled;
    if (app.canvas) this.refresh();
  }

  add(node) {
    const strip = makeStrip(this.texts, () => grow(node));
    const widget = node.addDOMWidget(STRIP_WIDGET, "teacache", strip.element, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => strip.height() + 2 * MARGIN,
      getMaxHeight: () => strip.height() + 2 * MARGIN,
    });
    widget.serialize = false;
    this.strips.set(node, strip);
    requestAnimationFrame(() => this.attachElements());
    const onRemoved = node.onRemoved;
    node.onRemoved = function (...args) {
      strip.dispose();
      return onRemoved?.apply(this, args);
    };
  }

  remove(node) {
    this.strips.get(node)?.dispose();
    this.strips.delete(node);
    const widget = node.widgets?.find(({ name }) => name === STRIP_WIDGET);
    if (widget) node.removeWidget(widget);
    node.setSize([node.size[0], node.computeSize()[1]]);
    node.setDirtyCanvas(true, true);
  }

  /** Updates every node of the graph to the setting and to its last run. */
  refresh() {
    const nodes = nodesOf(this.graph, STRIP_NODES);
    for (const [, node] of nodes) this.updateNode(node);
    if (!this.enabled) return;
    const byKey = new Map(nodes.map(([id, node]) => [runKey(this.graph.id, id), node]));
    for (const [, node] of nodes) this.strips.get(node).show(NO_RUN);
    for (const [key, run] of this.runs) this.strips.get(byKey.get(key) ?? {})?.show(run);
    requestAnimationFrame(() => this.attachElements());
  }

  /** Replaces elements that Nodes 2.0 reuses from a node with the same id in the previous graph. */
  attachElements() {
    for (const node of app.canvas.graph?.nodes ?? []) {
      const element = this.strips.get(node)?.element;
      if (!element || element.isConnected) continue;
      document.querySelector(`[data-node-id="${node.id}"] .teacache-strip`)?.replaceWith(element);
    }
  }

  /**
   * Keeps a node's run and, if the node is in the shown graph, shows it.
   *
   * @param {string} graphId
   * @param {string} executionId
   * @param {Run} run
   */
  put(graphId, executionId, run) {
    const key = runKey(graphId, executionId);
    this.runs.delete(key);
    this.runs.set(key, run);
    if (graphId !== this.graph?.id) return; // another workflow is shown, or none yet
    this.strips.get(findNode(this.graph, executionId) ?? {})?.show(run);
    this.attachElements();
  }

  /**
   * Handles an event of a node.
   *
   * @param {EventName} event
   * @param {EventData & {node: string}} data
   */
  handleEvent(event, { node, ...data }) {
    const graphId = data.graph ?? this.graph?.id ?? "";
    const key = runKey(graphId, node);
    const run = applyEvent(this.runs.get(key), event, data);
    this.heard.add(key);
    this.before.delete(key);
    this.put(graphId, node, run);
    if (event === "end") saveRuns(localStorage, this.runs);
    if (event === "step" && beginsLate(run)) this.ask();
  }

  /** Asks the server for runs whose events this page did not hear, and shows them. */
  async ask() {
    this.askAgain = this.asking;
    if (this.asking || !this.enabled || !this.graph) return;
    if (!nodesOf(this.graph, STRIP_NODES).length) return;
    this.asking = true;
    const [graphId, prompt] = [this.graph.id, this.prompt];
    const answer = await fetchRuns(graphId);
    this.asking = false;
    for (const [node, events] of Object.entries(answer?.runs ?? {})) {
      const kept = events.reduce((run, [event, data]) => applyEvent(run, event, data), undefined);
      const run = kept.prompt === answer.running ? kept : afterPrompt(kept);
      if (supersedes(run, this.runs.get(runKey(graphId, node)))) this.put(graphId, node, run);
    }
    if (answer && !answer.running && prompt === this.prompt) this.endRuns(false);
    saveRuns(localStorage, this.runs);
    if (this.askAgain) await this.ask();
  }

  /** Handles the start of a prompt. */
  handlePromptStart({ prompt_id: id }) {
    this.prompt = { id, state: "running" };
    this.heard.clear();
    this.before.clear();
  }

  /**
   * Shows that the nodes of a prompt wait, unless nothing that they lead to is to be executed.
   *
   * @param {{prompt_id: string, nodes: string[]}} detail with the nodes that are not executed
   */
  async handleCached({ prompt_id: promptId, nodes: cached }) {
    const prompt = await fetchPrompt(promptId);
    if (!prompt || this.prompt?.id !== promptId || this.prompt.state === "done") return;
    const graphId = prompt.graphId ?? this.graph?.id ?? "";
    for (const [id, { class_type: kind }] of Object.entries(prompt.nodes)) {
      const key = runKey(graphId, id);
      if (!STRIP_NODES.includes(kind) || this.heard.has(key)) continue;
      if (!isPending(prompt.nodes, cached, id)) continue;
      this.before.set(key, this.runs.get(key));
      this.put(graphId, id, waiting(this.runs.get(key)));
    }
    if (this.prompt.state === "failed") this.endRuns(false); // before the answer came
  }

  /**
   * Handles the end of a prompt.
   *
   * @param {"done" | "failed"} state
   * @param {{prompt_id: string}} detail
   */
  handlePromptEnd(state, { prompt_id: promptId }) {
    if (this.prompt?.id !== promptId) return; // of another page
    this.prompt.state = state;
    this.endRuns(state === "done");
  }

  /**
   * Shows that the runs which have not ended do not go on.
   *
   * @param {boolean} done whether all of the prompt was executed: what a node that did not sample
   *   leads to is then of its last run
   */
  endRuns(done) {
    const before = done ? this.before : new Map();
    for (const [key, run] of [...this.runs]) {
      const [graphId, executionId] = splitKey(key);
      const after = before.has(key) ? (before.get(key) ?? NO_RUN) : afterPrompt(run);
      if (after !== run) this.put(graphId, executionId, after);
    }
    this.before.clear();
    saveRuns(localStorage, this.runs);
  }
}
