/**
 * Model lines: where a graph hands a model, or a pipeline, to a node that samples it. The same
 * rules as `teacache/workflows/model_lines.py` and `insertion_editor.py`.
 *
 * @typedef {number | string} Id of a node, by the version of the editor
 * @typedef {{name: string, type: string, link: number | null}} InputSlot
 * @typedef {{name: string, type: string, links: number[] | null}} OutputSlot
 * @typedef {object} LineNode a node, as far as lines need it
 * @property {Id} id
 * @property {string} [comfyClass]
 * @property {number} [mode]
 * @property {InputSlot[]} inputs
 * @property {OutputSlot[]} outputs
 * @property {LineGraph} [subgraph]
 *
 * @typedef {object} Link
 * @property {number} id
 * @property {Id} origin_id
 * @property {number} origin_slot
 * @property {Id} target_id
 * @property {number} target_slot
 * @property {number} [parentId] of the last reroute
 *
 * @typedef {{id: number, parentId?: number, linkIds: Set<number>}} Reroute
 *
 * @typedef {object} LineGraph
 * @property {LineNode[]} nodes
 * @property {Map<number, Link>} links
 * @property {Map<number, Reroute>} reroutes
 *
 * @typedef {object} Line one output that nodes sample from
 * @property {string} apply the class that adds the cache
 * @property {Id} origin
 * @property {number} slot
 * @property {number[]} shared the reroutes at the start that other links run through as well
 * @property {Link[]} links those of the sampling nodes
 */

/** The classes that add the cache, by what they add it to. */
export const APPLY_TO = /** @type {Record<string, string>} */ ({
  MODEL: "ApplyTeaCache",
  DIFFUSION_PIPELINE: "ApplyTeaCacheDiffusers",
});

const WITHOUT_SAMPLING = [
  "*",
  "COMFY_MATCHTYPE_V3", // the type of what is linked to an input, of a switch
  "SIGMAS",
  "SAMPLER",
  "CONTROL_NET",
  "FLOAT",
  "INT",
  "STRING",
  "BOOLEAN",
];
const READERS = ["AddNoise", "TeaCacheCalibrate", "TeaCacheSweep"];
const OURS = [...READERS, "TeaCacheCompareImages", "TeaCacheProfiles", "TeaCacheReport"];
const CACHES = /teacache|easycache|lazycache|magcache|fbcache|cachedit|taylorseer/;
const NOT_RUN = [2, 4]; // modes: muted, bypassed

/**
 * The graph and the definition of every subgraph that is used in it, each once.
 *
 * @template {{nodes: {subgraph?: any}[]}} G
 * @param {G} graph
 * @returns {G[]}
 */
export function graphsIn(graph) {
  const found = new Set([graph]);
  for (const each of found) {
    for (const { subgraph } of each.nodes) if (subgraph) found.add(subgraph);
  }
  return [...found];
}

/** @param {LineNode} node @returns {boolean} whether it is an Apply TeaCache */
export function isApply({ comfyClass }) {
  return Object.values(APPLY_TO).includes(comfyClass ?? "");
}

/** @param {LineNode} node @returns {boolean} whether it is one, or another pack's cache in use */
export function isCache(node) {
  const { comfyClass = "", mode = 0 } = node;
  if (isApply(node)) return true;
  if (OURS.includes(comfyClass) || NOT_RUN.includes(mode)) return false;
  return CACHES.test(comfyClass.toLowerCase().replace(/[^a-z0-9]/g, ""));
}

/** @param {unknown} type @returns {string | undefined} the one of `APPLY_TO` that it accepts */
export function lineType(type) {
  const accepted = String(type).split(",");
  return Object.keys(APPLY_TO).find((known) => accepted.includes(known));
}

/** @param {LineNode} node @returns {boolean} whether it samples a model, or hands it to what does */
export function samples(node) {
  if (node.subgraph || isApply(node) || READERS.includes(node.comfyClass ?? "")) return false;
  if (!node.inputs.some(({ type }) => lineType(type))) return false;
  const outputs = (node.outputs ?? []).map(({ type }) => String(type));
  if (outputs.some((type) => type in APPLY_TO)) {
    return node.inputs.some(({ name, type }) => name === "sampler_name" || type === "SAMPLER");
  }
  return outputs.some((type) => !WITHOUT_SAMPLING.includes(type));
}

/** @param {LineGraph} graph @param {LineNode} node @returns {Link[]} the links of its model inputs */
function incoming(graph, node) {
  return (node.inputs ?? []).flatMap(({ link, type }) => {
    const found = link === null || !lineType(type) ? undefined : graph.links.get(link);
    return found ? [found] : [];
  });
}

/**
 * Whether a model comes out of a node that samples it, where it has its cache already.
 *
 * @param {LineGraph} graph
 * @param {Map<string, LineNode>} nodes by id
 * @param {Id} id of the node
 */
function returnedBySampler(graph, nodes, id) {
  const seen = new Set([String(id)]);
  for (const each of seen) {
    const node = nodes.get(each);
    if (!node) continue; // the subgraph's input
    if (samples(node)) return true;
    for (const { origin_id } of incoming(graph, node)) seen.add(String(origin_id));
  }
  return false;
}

/** @param {LineGraph} graph @param {Link} link @returns {number[]} its reroutes, origin first */
export function chainOf(graph, { parentId }) {
  /** @type {number[]} */
  const chain = [];
  for (let id = parentId; id !== undefined && !chain.includes(id); ) {
    chain.unshift(id);
    id = graph.reroutes.get(id)?.parentId;
  }
  return chain;
}

/**
 * The reroutes at the start of a link up to the last that a link which stays runs through.
 *
 * @param {LineGraph} graph
 * @param {Link} link
 * @param {Set<number>} moved ids of the links that do not stay
 */
function sharedReroutes(graph, link, moved) {
  const chain = chainOf(graph, link);
  const stays = (/** @type {number} */ id) =>
    [...(graph.reroutes.get(id)?.linkIds ?? [])].some((other) => !moved.has(other));
  return chain.slice(0, chain.findLastIndex(stays) + 1);
}

/** @param {LineGraph} graph @returns {Line[]} the outputs that its own nodes sample from */
export function linesOf(graph) {
  const nodes = new Map(graph.nodes.map((node) => [String(node.id), node]));
  const links = graph.nodes
    .filter(samples)
    .flatMap((node) => incoming(graph, node))
    .filter(({ origin_id }) => !returnedBySampler(graph, nodes, origin_id))
    .toSorted((a, b) => a.id - b.id);
  const moved = new Set(links.map(({ id }) => id));
  /** @type {Map<string, Line>} */
  const lines = new Map();
  for (const link of links) {
    const { origin_id: origin, origin_slot: slot, target_id, target_slot } = link;
    const type = lineType(nodes.get(String(target_id))?.inputs[target_slot].type) ?? "";
    const shared = sharedReroutes(graph, link, moved);
    const key = `${origin}/${slot}/${shared}`;
    const line = lines.get(key) ?? { apply: APPLY_TO[type], origin, slot, shared, links: [] };
    line.links.push(link);
    lines.set(key, line);
  }
  return [...lines.values()];
}
