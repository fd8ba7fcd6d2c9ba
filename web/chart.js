/**
 * The curve of accumulated distance, in SVG units: one per step across, `HEIGHT` down.
 *
 * @import { StepRecord } from "./run.js"
 */

export const HEIGHT = 100;
const MAX_OVER_THRESHOLD = 2.5; // the axis ends at this multiple of the threshold
const HEADROOM = 1.15;

/**
 * The value at the top of the chart.
 *
 * @param {StepRecord[]} records
 * @param {number} threshold 0 for none
 */
export function axisTop(records, threshold) {
  const highest = records.reduce((most, { accumulated }) => Math.max(most, accumulated || 0), 0);
  const top = threshold > 0 ? Math.min(highest, MAX_OVER_THRESHOLD * threshold) : highest;
  return Math.max(top, threshold) * HEADROOM || 1;
}

/**
 * The y coordinate of a value, clamped to the chart.
 *
 * @param {number | null} value
 * @param {number} top the value at the top of the chart
 * @returns {number}
 */
export function yOf(value, top) {
  return HEIGHT - (Math.min(Math.max(value || 0, 0), top) / top) * HEIGHT;
}

/**
 * The points of the curve, which rises over skipped steps and falls to 0 at computed ones.
 *
 * @param {StepRecord[]} records
 * @param {number} top the value at the top of the chart
 * @returns {[number, number][]}
 */
export function curvePoints(records, top) {
  return records.flatMap(({ accumulated, skipped }, index) => {
    const x = index + 0.5;
    const point = /** @type {[number, number]} */ ([x, yOf(accumulated, top)]);
    return skipped ? [point] : [point, /** @type {[number, number]} */ ([x, HEIGHT])];
  });
}

/**
 * The SVG path of a line through the points.
 *
 * @param {[number, number][]} points
 */
export function linePath(points) {
  return points.map(([x, y], index) => `${index ? "L" : "M"}${x} ${y.toFixed(2)}`).join("");
}

/**
 * The SVG path of the area between the line and the bottom of the chart.
 *
 * @param {[number, number][]} points
 */
export function areaPath(points) {
  if (!points.length) return "";
  return `${linePath(points)}L${points[points.length - 1][0]} ${HEIGHT}L${points[0][0]} ${HEIGHT}Z`;
}
