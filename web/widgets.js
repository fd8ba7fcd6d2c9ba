/**
 * The widgets of Apply TeaCache: their order on the node, and which of them are folded.
 *
 * Saved files keep the order of the node's definition, in which earlier versions wrote them.
 */

import { app } from "../../scripts/app.js";
import { undoable } from "./history.js";
import { format } from "./sentences.js";

export const MARGIN = 10; // of a widget, in pixels of the canvas
const GAP = 4; // between widgets on the canvas
const FIRST = "preset";
const TOGGLE = "teacache_more";
const TOGGLE_HEIGHT = 16;
const TOGGLE_MARGIN = 2;
/** Known where the editor folds advanced widgets in Nodes 2.0 by itself. */
const ALWAYS_SHOWN_SETTING = "Comfy.Node.AlwaysShowAdvancedWidgets";

/** @type {WeakMap<object, string[]>} the names of each node's widgets as they are saved */
const savedOrders = new WeakMap();

/**
 * Makes the nodes of a class read and write `widgets_values` in the order of their definition.
 *
 * @param {any} nodeType
 */
export function keepSavedOrder(nodeType) {
  const { configure, onSerialize } = nodeType.prototype;
  nodeType.prototype.configure = function (saved) {
    const values = fromSaved(this, saved.widgets_values);
    configure.call(this, values ? { ...saved, widgets_values: values } : saved);
    restore(this);
  };
  nodeType.prototype.onSerialize = function (data) {
    onSerialize?.call(this, data);
    const values = toSaved(this);
    if (values) data.widgets_values = values;
  };
}

/** The values of a file in the order of the node's widgets; of those that it lacks, their own. */
function fromSaved(node, values) {
  const names = savedOrders.get(node);
  if (!names || !Array.isArray(values)) return undefined;
  return serialized(node).map((widget) => {
    const index = names.indexOf(widget.name);
    return index >= 0 && index < values.length ? values[index] : widget.value;
  });
}

function toSaved(node) {
  const names = savedOrders.get(node);
  const byName = new Map(serialized(node).map((widget) => [widget.name, widget.value]));
  return names?.map((name) => byName.get(name) ?? null);
}

function serialized(node) {
  return (node.widgets ?? []).filter(({ serialize }) => serialize !== false);
}

/**
 * Puts the widgets of a new node in order, and folds those that its definition calls advanced.
 *
 * @param {any} node
 * @param {import("./run.js").Texts} texts
 */
export function arrange(node, texts) {
  savedOrders.set(node, serialized(node).map(({ name }) => name));
  const isFirst = ({ name }) => name === FIRST;
  const widgets = [...node.widgets];
  node.widgets = [...widgets.filter(isFirst), ...widgets.filter((widget) => !isFirst(widget))];
  addToggle(node, texts);
  const { onConnectionsChange, onWidgetChanged, toggleAdvanced } = node;
  node.onWidgetChanged = function (...args) {
    onWidgetChanged?.apply(this, args);
    showToggle(this);
  };
  node.onConnectionsChange = function (...args) {
    onConnectionsChange?.apply(this, args);
    refresh(this);
  };
  node.toggleAdvanced = function () {
    toggleAdvanced.call(this);
    restore(this);
  };
  restore(node);
}

/**
 * Adds the line that unfolds the other widgets. Where the editor has one of its own, in newer
 * Nodes 2.0, this one is there only to name folded settings that are not at their default.
 */
function addToggle(node, texts) {
  const element = document.createElement("div");
  element.className = "teacache-more";
  const button = document.createElement("button");
  button.type = "button";
  element.append(button);
  const show = () => {
    const text = toggleText(node, texts);
    if (button.textContent !== text) button.textContent = text;
    showInNodes2(node, !foldsItself() || changed(node).length > 0);
  };
  button.addEventListener("click", () => undoable(() => node.toggleAdvanced()));
  const widget = node.addDOMWidget(TOGGLE, "teacache", element, {
    serialize: false,
    hideOnZoom: false,
    canvasOnly: false,
    margin: TOGGLE_MARGIN,
    getMinHeight: () => TOGGLE_HEIGHT + 2 * TOGGLE_MARGIN,
    getMaxHeight: () => TOGGLE_HEIGHT + 2 * TOGGLE_MARGIN,
    onDraw: show,
  });
  widget.serialize = false;
  widget.show = show;
}

/** What the line says: with folded widgets, also those that are not at their default. */
function toggleText(node, texts) {
  const list = changed(node).map(({ label, name, value }) => `${label ?? name} ${value}`).join(", ");
  const more = list ? format(texts.moreChanged, { list }) : texts.more;
  if (foldsItself() && LiteGraph.vueNodesMode) return more; // the arrow is the editor's there
  return node.showAdvanced ? `▾ ${texts.fewer}` : `▸ ${more}`;
}

/** The folded widgets that are not at their default. */
function changed(node) {
  return folded(node).filter(({ name, value }) => value !== defaultOf(node, name));
}

/** Shows or hides the line in Nodes 2.0. */
function showInNodes2(node, wanted) {
  const { options } = node.widgets.find(({ name }) => name === TOGGLE);
  if (options.canvasOnly === !wanted) return;
  options.canvasOnly = !wanted;
  rereadWidgets(node);
}

function defaultOf(node, name) {
  return node.constructor.nodeData?.inputs?.[name]?.default;
}

/** The widgets that the definition calls advanced, except those that a link sets. */
function folded(node) {
  const inputs = (node.inputs ?? []).filter((_, index) => node.isInputConnected(index));
  const linked = new Set(inputs.map(({ widget }) => widget?.name));
  return (node.widgets ?? []).filter(
    ({ name, options }) => options?.advanced && !linked.has(name),
  );
}

function foldsItself() {
  return app.extensionManager.setting.get(ALWAYS_SHOWN_SETTING) !== undefined;
}

/** Shows and hides the node's widgets as its `showAdvanced` says, which is saved with it. */
function refresh(node) {
  const advanced = (node.widgets ?? []).filter(({ options }) => options?.advanced);
  const foldable = folded(node);
  for (const widget of advanced) {
    widget.advanced = foldable.includes(widget);
    const hidden = widget.advanced && !node.showAdvanced;
    widget.computeSize = hidden ? () => [0, -GAP] : undefined; // else the canvas leaves room for it
    if (!foldsItself()) widget.options.hidden = hidden;
  }
  showToggle(node);
  if (!foldsItself()) rereadWidgets(node);
}

function showToggle(node) {
  node.widgets?.find(({ name }) => name === TOGGLE)?.show();
}

/** Makes Nodes 2.0 read the options of the node's widgets again. */
function rereadWidgets(node) {
  const widgets = [...node.widgets];
  node.widgets = [];
  node.widgets = widgets;
}

/** Shows the node's widgets as its `showAdvanced` says, and nothing below them. */
export function restore(node) {
  refresh(node);
  fit(node);
}

/** Gives the node the height that its widgets need. */
function fit(node) {
  resize(node, () => true);
}

/** Enlarges the node if its widgets need more height. */
export function grow(node) {
  if (node.graph) resize(node, (height) => node.size[1] < height);
}

/**
 * @param {any} node
 * @param {(height: number) => boolean} isWanted
 */
function resize(node, isWanted) {
  if (node.flags?.collapsed) return;
  const height = neededHeight(node);
  if (isWanted(height)) node.setSize([node.size[0], height]);
  node.setDirtyCanvas(true, true);
}

/**
 * Where Nodes 2.0 folds the widgets by itself, the node becomes higher while they are unfolded
 * without being resized, and would not become lower again if it had been.
 */
function neededHeight(node) {
  const [, height] = node.computeSize();
  if (!LiteGraph.vueNodesMode || !foldsItself() || !node.showAdvanced) return height;
  return height - folded(node).length * (LiteGraph.NODE_WIDGET_HEIGHT + GAP);
}
