/**
 * Apply TeaCache put into the graph that is open, and taken out of it, as one step to be undone.
 *
 * @import { Id, Line, Link } from "./lines.js"
 * @import { Box, Point } from "./placement.js"
 * @import { Texts } from "./run.js"
 */

import { app } from "../../scripts/app.js";
import { undoable } from "./history.js";
import { chainOf, graphsIn, isApply, isCache, linesOf } from "./lines.js";
import { boxOfNode, FIRST_SLOT, place, SLOT } from "./placement.js";
import { format } from "./sentences.js";

const SIZE = /** @type {Point} */ ([300, 298]); // of a new node, with its widgets folded
const TOAST_LIFE = 8000; // ms
const MAX_LINES = 6; // of a toast

/**
 * Puts one node behind every output that nodes sample from, and says where.
 *
 * @param {Texts} texts
 */
export function putIn(texts) {
  const graphs = graphsIn(app.rootGraph ?? app.graph);
  const present = graphs.flatMap((graph) => graph.nodes.filter(isCache));
  if (present.length) {
    tell("info", texts.alreadyIn, present.map(nameOf));
    return;
  }
  const made = undoable(() =>
    graphs.flatMap((graph) => linesOf(graph).map((line) => insert(graph, line))),
  );
  if (made.length) tell("success", format(texts.putInCount, { count: made.length }), made);
  else tell("info", texts.noSampler, []);
}

/**
 * Takes every node of this kind out; what it was linked to is linked directly.
 *
 * @param {Texts} texts
 */
export function takeOut(texts) {
  const graphs = graphsIn(app.rootGraph ?? app.graph);
  const removed = undoable(() =>
    graphs.flatMap((graph) => graph.nodes.filter(isApply).map((node) => remove(graph, node))),
  );
  if (removed.length) tell("success", format(texts.takenOut, { count: removed.length }), removed);
  else tell("info", texts.notIn, []);
}

/** @param {string} severity @param {string} summary @param {string[]} lines */
function tell(severity, summary, lines) {
  const more = lines.length > MAX_LINES ? [`… (${lines.length})`] : [];
  const detail = [...lines.slice(0, MAX_LINES), ...more].join("\n");
  app.extensionManager.toast.add({ severity, summary, detail, life: TOAST_LIFE });
}

/** @param {any} node @returns {string} its title and id, and the subgraph that it is in */
function nameOf(node) {
  const subgraph = node.graph?.isRootGraph === false ? `${node.graph.name} / ` : "";
  return `${subgraph}${node.title} (${node.id})`;
}

/** @param {any} graph @param {Line} line @returns {string} between which nodes the new one is */
function insert(graph, { apply, origin, slot, shared, links }) {
  const targets = links.map(({ target_id }) => graph.getNodeById(target_id));
  const node = LiteGraph.createNode(apply);
  const modes = new Set(targets.map(({ mode }) => mode));
  if (modes.size === 1) node.mode = targets[0].mode; // muted or bypassed with its samplers
  const around = {
    start: outputAt(graph, origin, slot),
    ends: links.map((link) => inputAt(graph, link)),
    nodes: boxesOf(graph),
    groups: graph.groups.map((/** @type {any} */ group) => [...group.pos, ...group.size]),
  };
  node.pos = place(SIZE, around);
  graph.add(node);
  node.setSize([...SIZE]);
  const rests = links.map((link) => chainOf(graph, link).slice(shared.length));
  for (const [first] of rests) {
    if (shared.length && first !== undefined) graph.reroutes.get(first).parentId = undefined;
  }
  connect(graph, origin, slot, node, 0, shared.at(-1));
  for (const [index, { target_slot }] of links.entries()) {
    node.connect(0, targets[index], target_slot, rests[index].at(-1));
  }
  const source = isEnd(graph.inputNode, origin) ? graph.name : graph.getNodeById(origin).title;
  const names = [...new Set(targets)].map(nameOf).join(", ");
  return `${source} → ${names}`;
}

/** @param {any} graph @param {any} node @returns {string} the name of the removed node */
function remove(graph, node) {
  const name = nameOf(node);
  /** @type {Link | undefined} */
  const source = graph.links.get(node.inputs[0].link);
  /** @type {Link[]} */
  const links = (node.outputs[0].links ?? []).map((/** @type {number} */ id) => graph.links.get(id));
  for (const link of source ? links : []) {
    const { target_id, target_slot } = link;
    const before = chainOf(graph, source).at(-1);
    const own = chainOf(graph, link);
    if (own.length) graph.reroutes.get(own[0]).parentId = before;
    const last = own.at(-1) ?? before;
    if (isEnd(graph.outputNode, target_id)) connectOut(graph, source, target_slot, last);
    else {
      const target = graph.getNodeById(target_id);
      connect(graph, source.origin_id, source.origin_slot, target, target_slot, last);
    }
  }
  graph.remove(node);
  return name;
}

/** @param {any} end a subgraph's own input or output, if the graph has them @param {unknown} id */
function isEnd(end, id) {
  return end !== undefined && String(end.id) === String(id); // a number or a text, by version
}

/**
 * Links an output, of a node or of the subgraph's own input, to a node.
 *
 * @param {any} graph
 * @param {Id} origin
 * @param {number} slot
 * @param {any} target
 * @param {number} targetSlot
 * @param {number} [reroute] the last one that the link runs through
 */
function connect(graph, origin, slot, target, targetSlot, reroute) {
  if (isEnd(graph.inputNode, origin)) {
    graph.inputNode.slots[slot].connect(target.inputs[targetSlot], target, reroute);
  } else {
    graph.getNodeById(origin).connect(slot, target, targetSlot, reroute);
  }
}

/** @param {any} graph @param {Link} source @param {number} slot @param {number} [reroute] */
function connectOut(graph, source, slot, reroute) {
  const origin = graph.getNodeById(source.origin_id);
  if (!origin) return; // the editor links no input of a subgraph to its output
  graph.outputNode.slots[slot].connect(origin.outputs[source.origin_slot], origin, reroute);
}

/** @param {any} graph @param {Id} id @param {number} slot @returns {Point} */
function outputAt(graph, id, slot) {
  if (isEnd(graph.inputNode, id)) {
    const [x, y, width, height] = graph.inputNode.boundingRect;
    return [x + width, Math.min(y + FIRST_SLOT + SLOT * slot, y + height)];
  }
  const { pos, size } = graph.getNodeById(id);
  return [pos[0] + size[0], pos[1] + FIRST_SLOT + SLOT * slot];
}

/** @param {any} graph @param {Link} link @returns {Point} */
function inputAt(graph, { target_id, target_slot }) {
  const { pos } = graph.getNodeById(target_id);
  return [pos[0], pos[1] + FIRST_SLOT + SLOT * target_slot];
}

/** @param {any} graph @returns {Box[]} of all nodes, a subgraph's own input and output among them */
function boxesOf(graph) {
  const ends = graph.inputNode ? [graph.inputNode, graph.outputNode] : [];
  return [
    ...graph.nodes.map((/** @type {any} */ { pos, size }) => boxOfNode(pos, size)),
    ...ends.map(({ boundingRect }) => [...boundingRect]),
  ];
}
