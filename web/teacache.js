/**
 * TeaCache in the editor: a live strip on every Apply TeaCache node.
 *
 * @import { Run, Texts } from "./run.js"
 * @import { Strip } from "./strip.js"
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { findNode, nodesOf } from "./graph.js";
import { keep, keyOf, recall } from "./memory.js";
import { advance, IDLE } from "./run.js";
import { makeStrip } from "./strip.js";

const NODES = ["ApplyTeaCache", "ApplyTeaCacheDiffusers"];
/** Nodes that show the text of their output, and the class of its look. */
const TEXTS = new Map([
  ["TeaCacheCompareImages", "teacache-text"],
  ["TeaCacheCalibrate", "teacache-text teacache-table"],
  ["TeaCacheProfiles", "teacache-text teacache-table"],
  ["TeaCacheSweep", "teacache-text teacache-table"],
]);
const TABLE_WIDTH = 480; // of a new node with a table, so that no row is broken
const WIDGET = "teacache_strip";
const SHOW = "TeaCache.ShowStrip";
const THRESHOLD = "TeaCache.DefaultThreshold";
const MARGIN = 10; // around a widget, in the canvas

class Strips {
  /** @type {Map<string, Run>} in the order in which they ended */
  runs = recall(localStorage);
  /** @type {WeakMap<object, Strip>} */
  strips = new WeakMap();
  /** @type {Texts} */
  texts = {};
  /** Whose prompt is running: its graph's id, as far as it is known. */
  origin = /** @type {string | undefined} */ (undefined);

  get graph() {
    return app.rootGraph ?? app.graph;
  }

  /** Whether the user wants strips. */
  wanted = true;

  /** Adds the strip to a node, or takes it off, as the setting says. */
  fit(node) {
    const present = this.strips.has(node);
    if (this.wanted && !present) this.add(node);
    if (!this.wanted && present) this.remove(node);
  }

  /** @param {boolean} wanted */
  want(wanted) {
    this.wanted = wanted;
    if (app.canvas) this.refresh();
  }

  add(node) {
    const strip = makeStrip(this.texts, () => grow(node));
    const widget = node.addDOMWidget(WIDGET, "teacache", strip.element, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => strip.height() + 2 * MARGIN,
      getMaxHeight: () => strip.height() + 2 * MARGIN,
    });
    widget.serialize = false;
    this.strips.set(node, strip);
    requestAnimationFrame(() => this.mount());
    const onRemoved = node.onRemoved;
    node.onRemoved = function (...args) {
      strip.dispose();
      return onRemoved?.apply(this, args);
    };
  }

  remove(node) {
    this.strips.get(node)?.dispose();
    this.strips.delete(node);
    const widget = node.widgets?.find(({ name }) => name === WIDGET);
    if (widget) node.removeWidget(widget);
    node.setSize([node.size[0], node.computeSize()[1]]);
    node.setDirtyCanvas(true, true);
  }

  /** Brings every node of the graph in line with the setting and with its last run. */
  refresh() {
    const places = nodesOf(this.graph, NODES);
    for (const [, node] of places) this.fit(node);
    if (!this.wanted) return;
    const keys = new Map(places.map(([id, node]) => [keyOf(this.graph.id, id), node]));
    for (const [, node] of places) this.strips.get(node).show(IDLE);
    for (const [key, run] of this.runs) this.strips.get(keys.get(key) ?? {})?.show(run);
    requestAnimationFrame(() => this.mount());
  }

  /** Nodes 2.0 keeps the elements of a node that had the same id in the graph shown before. */
  mount() {
    for (const node of app.canvas.graph?.nodes ?? []) {
      const element = this.strips.get(node)?.element;
      if (!element || element.isConnected) continue;
      document.querySelector(`[data-node-id="${node.id}"] .teacache-strip`)?.replaceWith(element);
    }
  }

  /** A prompt of this page starts: most likely of the graph on the screen. */
  async begin(promptId) {
    const assumed = this.graph.id;
    this.origin = assumed;
    const actual = await graphOf(promptId);
    if (!actual || actual === assumed) return;
    this.origin = actual;
    for (const [key, run] of [...this.runs]) {
      if (!run.live || !key.startsWith(keyOf(assumed, ""))) continue;
      this.runs.delete(key);
      this.runs.set(key.replace(assumed, actual), run);
    }
    this.refresh();
  }

  /** @param {"ready" | "start" | "step" | "end"} event */
  hear(event, { node: executionId, ...data }) {
    const graphId = this.origin ?? this.graph.id;
    const key = keyOf(graphId, executionId);
    const run = advance(this.runs.get(key), event, data);
    this.runs.delete(key);
    this.runs.set(key, run);
    if (event === "end") keep(localStorage, this.runs);
    if (graphId !== this.graph.id) return; // another workflow is on the screen
    this.strips.get(findNode(this.graph, executionId) ?? {})?.show(run);
    this.mount();
  }
}

/** Shows on a node of `TEXTS` what it said when it ran. */
function showText(node) {
  const look = TEXTS.get(node.comfyClass);
  const element = document.createElement("div");
  element.className = "teacache-strip";
  const body = document.createElement("div");
  body.className = look;
  element.append(body);
  const height = () => body.offsetHeight + 2 * MARGIN;
  const widget = node.addDOMWidget("teacache_text", "teacache", element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false;
  if (look.includes("table")) node.setSize([Math.max(node.size[0], TABLE_WIDTH), node.size[1]]);
  const onExecuted = node.onExecuted;
  node.onExecuted = function (output) {
    onExecuted?.call(this, output);
    body.textContent = output.text?.join("\n") ?? "";
    grow(node);
  };
}

/** Makes room on the node for what the strip shows. */
function grow(node) {
  if (!node.graph || node.flags?.collapsed) return;
  const [, height] = node.computeSize();
  if (node.size[1] < height) node.setSize([node.size[0], height]);
  node.setDirtyCanvas(true, true);
}

/** The id of the graph that a prompt came from. */
async function graphOf(promptId) {
  const answer = await api.fetchApi("/queue");
  const { queue_running: running } = await answer.json();
  const entry = running.find(([, id]) => id === promptId);
  return entry?.[3]?.extra_pnginfo?.workflow?.id;
}

/** The strip's phrases in the editor's language, as `locales/` has them. @returns {Texts} */
async function loadTexts() {
  const answer = await api.fetchApi("/i18n");
  const languages = await answer.json();
  const wanted = app.extensionManager.setting.get("Comfy.Locale");
  return { ...languages.en?.teacache, ...languages[wanted]?.teacache };
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
      id: SHOW,
      category: ["TeaCache", "Apply TeaCache", "Strip"],
      name: "Show the strip on Apply TeaCache",
      tooltip: "One cell per step: computed or skipped, and why.",
      type: "boolean",
      defaultValue: true,
      onChange: (wanted) => strips.want(wanted),
    },
    {
      id: THRESHOLD,
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
    api.addEventListener("execution_start", ({ detail }) => strips.begin(detail.prompt_id));
    for (const event of /** @type {const} */ (["ready", "start", "step", "end"])) {
      api.addEventListener(`teacache.${event}`, ({ detail }) => strips.hear(event, detail));
    }
  },
  nodeCreated(node) {
    if (TEXTS.has(node.comfyClass)) showText(node);
    if (!NODES.includes(node.comfyClass)) return;
    const threshold = node.widgets.find(({ name }) => name === "rel_l1_thresh");
    threshold.value = app.extensionManager.setting.get(THRESHOLD); // a loaded node brings its own
    strips.fit(node);
  },
  afterConfigureGraph() {
    strips.refresh();
  },
});
