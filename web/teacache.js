/**
 * The editor extension: a live strip on every Apply TeaCache node, and the text output of other
 * nodes of the pack.
 *
 * @import { Run, Texts } from "./run.js"
 * @import { Strip } from "./strip.js"
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { findNode, nodesOf } from "./graph.js";
import { loadRuns, runKey, saveRuns } from "./memory.js";
import { applyEvent, NO_RUN } from "./run.js";
import { makeStrip } from "./strip.js";

const STRIP_NODES = ["ApplyTeaCache", "ApplyTeaCacheDiffusers"];
/** Nodes that show their text output, and the CSS classes of the text. */
const TEXT_NODES = new Map([
  ["TeaCacheCompareImages", "teacache-text"],
  ["TeaCacheCalibrate", "teacache-text teacache-table"],
  ["TeaCacheProfiles", "teacache-text teacache-table"],
  ["TeaCacheSweep", "teacache-text teacache-table"],
]);
const TABLE_WIDTH = 480; // minimum width of a new node with a table, so that no row wraps
const STRIP_WIDGET = "teacache_strip";
const SHOW_SETTING = "TeaCache.ShowStrip";
const THRESHOLD_SETTING = "TeaCache.DefaultThreshold";
const MARGIN = 10; // of a widget, in pixels of the canvas

/** The strips of all nodes, and the runs that they show. */
class Strips {
  /** @type {Map<string, Run>} runs by key, in the order of their last events */
  runs = loadRuns(localStorage);
  /** @type {WeakMap<object, Strip>} strips by node */
  strips = new WeakMap();
  /** @type {Texts} */
  texts = {};
  /** The id of the graph whose prompt is running, if known. */
  runningGraphId = /** @type {string | undefined} */ (undefined);

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

  /** Handles the start of a prompt; until the server answers, it is taken for the shown graph's. */
  async handlePromptStart(promptId) {
    const assumed = this.graph.id;
    this.runningGraphId = assumed;
    const actual = await graphIdOf(promptId);
    if (!actual || actual === assumed) return;
    this.runningGraphId = actual;
    for (const [key, run] of [...this.runs]) {
      if (!run.live || !key.startsWith(runKey(assumed, ""))) continue;
      this.runs.delete(key);
      this.runs.set(key.replace(assumed, actual), run);
    }
    this.refresh();
  }

  /**
   * Handles an event of a node: updates its run and, if it is in the shown graph, its strip.
   *
   * @param {"ready" | "start" | "step" | "end"} event
   */
  handleEvent(event, { node: executionId, ...data }) {
    const graphId = this.runningGraphId ?? this.graph.id;
    const key = runKey(graphId, executionId);
    const run = applyEvent(this.runs.get(key), event, data);
    this.runs.delete(key);
    this.runs.set(key, run);
    if (event === "end") saveRuns(localStorage, this.runs);
    if (graphId !== this.graph.id) return; // another workflow is shown
    this.strips.get(findNode(this.graph, executionId) ?? {})?.show(run);
    this.attachElements();
  }
}

/** Adds a widget to a node of `TEXT_NODES` that shows the text output of its last execution. */
function addTextWidget(node) {
  const classes = TEXT_NODES.get(node.comfyClass);
  const element = document.createElement("div");
  element.className = "teacache-strip";
  const body = document.createElement("div");
  body.className = classes;
  element.append(body);
  const height = () => body.offsetHeight + 2 * MARGIN;
  const widget = node.addDOMWidget("teacache_text", "teacache", element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false;
  if (classes.includes("table")) node.setSize([Math.max(node.size[0], TABLE_WIDTH), node.size[1]]);
  const onExecuted = node.onExecuted;
  node.onExecuted = function (output) {
    onExecuted?.call(this, output);
    body.textContent = output.text?.join("\n") ?? "";
    grow(node);
  };
}

/** Enlarges the node if its widgets need more height. */
function grow(node) {
  if (!node.graph || node.flags?.collapsed) return;
  const [, height] = node.computeSize();
  if (node.size[1] < height) node.setSize([node.size[0], height]);
  node.setDirtyCanvas(true, true);
}

/** The id of the graph that a prompt in the queue was made from. */
async function graphIdOf(promptId) {
  const response = await api.fetchApi("/queue");
  const { queue_running: running } = await response.json();
  const entry = running.find(([, id]) => id === promptId);
  return entry?.[3]?.extra_pnginfo?.workflow?.id;
}

/**
 * The strip's phrases in the editor's language (`locales/LANGUAGE/main.json`), else in English.
 *
 * @returns {Texts}
 */
async function loadTexts() {
  const response = await api.fetchApi("/i18n");
  const languages = await response.json();
  const language = app.extensionManager.setting.get("Comfy.Locale");
  return { ...languages.en?.teacache, ...languages[language]?.teacache };
}

async function addStyle() {
  const answer = await fetch(new URL("./teacache.css", import.meta.url));
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(await answer.text());
  document.adoptedStyleSheets.push(sheet);
}

const strips = new Strips();

app.registerExtension({
  name: "teacachestudio.strip",
  settings: [
    {
      id: SHOW_SETTING,
      category: ["TeaCache", "Apply TeaCache", "Strip"],
      name: "Show the strip on Apply TeaCache",
      tooltip: "One cell per step: computed or skipped, and why.",
      type: "boolean",
      defaultValue: true,
      onChange: (enabled) => strips.setEnabled(enabled),
    },
    {
      id: THRESHOLD_SETTING,
      category: ["TeaCache", "Apply TeaCache", "Threshold"],
      name: "Threshold of new Apply TeaCache nodes",
      tooltip: "At 0.2, a node uses the value recommended for the model.",
      type: "slider",
      attrs: { min: 0, max: 1, step: 0.01 },
      defaultValue: 0.2,
    },
  ],
  async init() {
    await addStyle();
    strips.texts = await loadTexts();
    api.addEventListener("execution_start", ({ detail }) =>
      strips.handlePromptStart(detail.prompt_id),
    );
    for (const event of /** @type {const} */ (["ready", "start", "step", "end"])) {
      api.addEventListener(`teacache.${event}`, ({ detail }) => strips.handleEvent(event, detail));
    }
  },
  nodeCreated(node) {
    if (TEXT_NODES.has(node.comfyClass)) addTextWidget(node);
    if (!STRIP_NODES.includes(node.comfyClass)) return;
    const threshold = node.widgets.find(({ name }) => name === "rel_l1_thresh");
    // A node of a loaded graph gets its saved value afterwards.
    threshold.value = app.extensionManager.setting.get(THRESHOLD_SETTING);
    strips.updateNode(node);
  },
  afterConfigureGraph() {
    strips.refresh();
  },
});
