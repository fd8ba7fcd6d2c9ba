/**
 * The editor extension: a live strip on every Apply TeaCache node, the text output of other nodes of
 * the pack, and commands that put Apply TeaCache into a graph and take it out.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { putIn, takeOut } from "./insertion.js";
import { fetchTexts } from "./server.js";
import { STRIP_NODES, Strips } from "./strips.js";
import { arrange, grow, keepSavedOrder, MARGIN, restore } from "./widgets.js";

/** Nodes that show their text output, and the CSS classes of the text. */
const TEXT_NODES = new Map([
  ["TeaCacheCompareImages", "teacache-text"],
  ["TeaCacheCalibrate", "teacache-text teacache-table"],
  ["TeaCacheProfiles", "teacache-text teacache-table"],
  ["TeaCacheSweep", "teacache-text teacache-table"],
]);
const TABLE_WIDTH = 480; // minimum width of a new node with a table, so that no row wraps
const SHOW_SETTING = "TeaCache.ShowStrip";
const THRESHOLD_SETTING = "TeaCache.DefaultThreshold";
const PUT_IN = "TeaCache.PutIn";
const TAKE_OUT = "TeaCache.TakeOut";

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

/** Listens from the start: the editor warns of events that come before anybody listens to them. */
function listen() {
  for (const event of /** @type {const} */ (["ready", "start", "step", "end"])) {
    api.addEventListener(`teacache.${event}`, ({ detail }) => strips.handleEvent(event, detail));
  }
  const handlers = {
    execution_start: (detail) => strips.handlePromptStart(detail),
    execution_cached: (detail) => strips.handleCached(detail),
    execution_success: (detail) => strips.handlePromptEnd("done", detail),
    execution_error: (detail) => strips.handlePromptEnd("failed", detail),
    execution_interrupted: (detail) => strips.handlePromptEnd("failed", detail),
    status: () => strips.ask(), // of any page's prompts
  };
  for (const [event, handle] of Object.entries(handlers)) {
    api.addEventListener(event, ({ detail }) => handle(detail));
  }
  window.addEventListener("focus", () => strips.ask());
}

async function addStyle() {
  const answer = await fetch(new URL("./teacache.css", import.meta.url));
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(await answer.text());
  document.adoptedStyleSheets.push(sheet);
}

const strips = new Strips();
listen();

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
  commands: [
    {
      id: PUT_IN,
      label: "Put TeaCache into this graph",
      icon: "pi pi-bolt",
      function: () => putIn(strips.texts),
    },
    {
      id: TAKE_OUT,
      label: "Take TeaCache out of this graph",
      icon: "pi pi-eraser",
      function: () => takeOut(strips.texts),
    },
  ],
  getCanvasMenuItems: () => [
    { content: strips.texts.putIn, callback: () => putIn(strips.texts) },
    { content: strips.texts.takeOut, callback: () => takeOut(strips.texts) },
  ],
  async init() {
    await addStyle();
    strips.texts = await fetchTexts();
  },
  beforeRegisterNodeDef(nodeType, { name }) {
    if (STRIP_NODES.includes(name)) keepSavedOrder(nodeType);
  },
  nodeCreated(node) {
    if (TEXT_NODES.has(node.comfyClass)) addTextWidget(node);
    if (!STRIP_NODES.includes(node.comfyClass)) return;
    const threshold = node.widgets.find(({ name }) => name === "rel_l1_thresh");
    // A node of a loaded graph gets its saved value afterwards.
    threshold.value = app.extensionManager.setting.get(THRESHOLD_SETTING);
    arrange(node, strips.texts);
    strips.updateNode(node);
  },
  loadedGraphNode(node) {
    if (STRIP_NODES.includes(node.comfyClass)) restore(node);
  },
  afterConfigureGraph() {
    strips.refresh();
    strips.ask();
  },
});
