/**
 * The curve of accumulated distance, in a box of one unit per step by `HEIGHT` units.
 *
 * @import { StepRecord } from "./run.js"
 */

export const HEIGHT = 100;
const LIMIT = 2.5; // of the threshold: what lies above is cut off
const HEADROOM = 1.15;

/**
 * The value at the top of the box.
 *
 * @param {StepRecord[]} records
 * @param {number} threshold
 */
export function topOf(records, threshold) {
  const highest = records.reduce((most, { accumulated }) => Math.max(most, accumulated || 0), 0);
  const top = threshold > 0 ? Math.min(highest, LIMIT * threshold) : highest;
  return Math.max(top, threshold) * HEADROOM || 1;
}

/** @param {number} value @param {number} top @returns {number} */
export function heightOf(value, top) {
  return HEIGHT - (Math.min(Math.max(value || 0, 0), top) / top) * HEIGHT;
}

/**
 * Where the curve passes: it climbs over skipped steps and falls to 0 on computed ones.
 *
 * @param {StepRecord[]} records
 * @param {number} top
 * @returns {[number, number][]}
 */
export function curveOf(records, top) {
  return records.flatMap(({ accumulated, skipped }, index) => {
    const x = index + 0.5;
    const here = /** @type {[number, number]} */ ([x, heightOf(accumulated, top)]);
    return skipped ? [here] : [here, /** @type {[number, number]} */ ([x, HEIGHT])];
  });
}

/** @param {[number, number][]} points */
export function pathOf(points) {
  return points.map(([x, y], index) => `${index ? "L" : "M"}${x} ${y.toFixed(2)}`).join("");
}

/** @param {[number, number][]} points the same, closed along the bottom */
export function areaOf(points) {
  if (!points.length) return "";
  return `${pathOf(points)}L${points[points.length - 1][0]} ${HEIGHT}L${points[0][0]} ${HEIGHT}Z`;
}
