/**
 * Where a new node is put: between the nodes it links, beside all others. The same rules as
 * `teacache/workflows/placement.py`.
 *
 * @typedef {[number, number]} Point
 * @typedef {[number, number, number, number]} Box x, y, width and height
 *
 * @typedef {object} Surroundings
 * @property {Point} start the output that the node is linked to
 * @property {Point[]} ends the inputs that it is linked to
 * @property {Box[]} nodes all nodes, with their title bars
 * @property {Box[]} groups
 */

export const TITLE = 30; // height of the title bar, above a node's position
export const FIRST_SLOT = 14; // of a node's first slot below its position
export const SLOT = 20; // of each further one
const GAP = 30; // least distance to other nodes
const BACKWARDS = 3; // how much longer a wire counts that runs to the left
const FOREIGN_GROUP = 400; // length of wire that is better than a place among other nodes' group,
const GROUP_BORDER = 250; // or across a group's border

/** @param {Point} at @param {Point} size @returns {Box} a node's box, with its title bar */
export function boxOfNode([x, y], [width, height]) {
  return [x, y - TITLE, width, height + TITLE];
}

/** @param {Box} a @param {Box} b */
function meets([ax, ay, aw, ah], [bx, by, bw, bh]) {
  return ax < bx + bw && bx < ax + aw && ay < by + bh && by < ay + ah;
}

/** @param {Box} box @param {Point} point */
function holds([x, y, width, height], [px, py]) {
  return x <= px && px <= x + width && y <= py && py <= y + height;
}

/** @param {number[]} values */
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** @param {Point} start @param {Point} end @returns {number} its length, longer where it runs left */
function wire([ax, ay], [bx, by]) {
  return Math.hypot(bx >= ax ? bx - ax : BACKWARDS * (bx - ax), by - ay);
}

/**
 * How far a position is from a good one, as length of wire.
 *
 * @param {Point} at
 * @param {Point} size
 * @param {Surroundings} around
 */
function cost(at, size, { start, ends, groups }) {
  const input = /** @type {Point} */ ([at[0], at[1] + FIRST_SLOT]);
  const output = /** @type {Point} */ ([at[0] + size[0], at[1] + FIRST_SLOT]);
  const box = boxOfNode(at, size);
  const [x, y, width, height] = box;
  let sum = wire(start, input) + mean(ends.map((end) => wire(output, end)));
  for (const group of groups) {
    if (holds(group, [x, y]) && holds(group, [x + width, y + height])) {
      if (![start, ...ends].some((slot) => holds(group, slot))) sum += FOREIGN_GROUP;
    } else if (meets(group, box)) {
      sum += GROUP_BORDER;
    }
  }
  return sum;
}

/**
 * The position for a new node: overlapping none, with short wires that run to the right. Tried are
 * the middle between both sides, and the places beside every node.
 *
 * @param {Point} size
 * @param {Surroundings} around
 * @returns {Point}
 */
export function place(size, around) {
  const { start, ends, nodes } = around;
  const middle = /** @type {Point} */ ([
    (start[0] + mean(ends.map(([x]) => x)) - size[0]) / 2,
    (start[1] + mean(ends.map(([, y]) => y))) / 2 - FIRST_SLOT,
  ]);
  const columns = new Set([middle[0]]);
  const rows = new Set([middle[1]]);
  for (const [x, y, width, height] of nodes) {
    for (const column of [x, x - GAP - size[0], x + width + GAP]) columns.add(column);
    for (const row of [y + TITLE, y - GAP - size[1], y + height + GAP + TITLE]) rows.add(row);
  }
  const near = GAP - 1;
  const taken = nodes.map(([x, y, width, height]) => {
    return /** @type {Box} */ ([x - near, y - near, width + 2 * near, height + 2 * near]);
  });
  const candidates = [...columns].flatMap((x) =>
    [...rows].map((y) => ({ x, y, cost: cost([x, y], size, around) })),
  );
  candidates.sort((a, b) => a.cost - b.cost || a.x - b.x || a.y - b.y);
  const free = candidates.find(({ x, y }) => {
    const box = boxOfNode([x, y], size);
    return !taken.some((other) => meets(box, other));
  });
  return free ? [Math.round(free.x), Math.round(free.y)] : middle;
}
