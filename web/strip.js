/**
 * The DOM of the strip on a node: a cell per step, the curve above, a summary below.
 *
 * @import { Run, Texts } from "./run.js"
 */

import { areaPath, axisTop, curvePoints, HEIGHT, linePath, yOf } from "./chart.js";
import {
  cellCount,
  kindOf,
  limitLabel,
  messagesOf,
  NO_RUN,
  summaryLine,
  titleOf,
  tooltipLines,
} from "./run.js";

const EMPTY_CELLS = 24; // of a strip without a run
const DENSE_CELLS = 120; // above it there are no gaps between cells
const USUAL_HEIGHT = 120; // in pixels
const SVG = "http://www.w3.org/2000/svg";

/**
 * @typedef {object} Strip
 * @property {HTMLElement} element
 * @property {(run: Run) => void} show shows a run
 * @property {() => number} height in pixels
 * @property {() => void} dispose removes what lies outside the element
 */

/** The height to count on in a subgraph that is not open; Nodes 2.0 measures a node when it is. */
function undrawnHeight() {
  return LiteGraph.vueNodesMode ? 0 : USUAL_HEIGHT;
}

/**
 * @param {Texts} texts
 * @param {() => void} onResize called when the strip's height changes
 * @returns {Strip}
 */
export function makeStrip(texts, onResize) {
  const element = createElement("div", "teacache-strip");
  const body = createElement("div", "teacache-body", element);
  const head = createElement("div", "teacache-head", body);
  const title = createElement("span", "teacache-family", head);
  const limit = createElement("span", "teacache-limit", head);
  const plot = createElement("div", "teacache-plot", body);
  const chart = createSvg("teacache-chart", plot);
  const area = createSvgElement("path", "teacache-area", chart);
  const curve = createSvgElement("path", "teacache-curve", chart);
  const threshold = createSvgElement("line", "teacache-threshold", chart);
  const cells = createSvg("teacache-cells", plot);
  const summary = createElement("div", "teacache-line", body);
  const messages = createElement("div", "teacache-advice", body);
  const tooltip = createElement("div", "teacache-tip");
  tooltip.popover = "manual";

  /** @type {Run | undefined} */
  let shown;

  /** @param {Run} run */
  function show(run) {
    shown = run;
    const { records, method } = run.report;
    const value = method === "planned" ? 0 : run.report.threshold;
    const count = cellCount(run) || EMPTY_CELLS;
    element.dataset.live = String(run.live);
    element.classList.toggle("teacache-dense", count > DENSE_CELLS);
    title.textContent = titleOf(run);
    limit.textContent = limitLabel(run, texts);
    summary.textContent = summaryLine(run, texts);
    messages.replaceChildren(...messagesOf(run, texts).map(createLine));

    const top = axisTop(records, value);
    const points = curvePoints(records, top);
    for (const svg of [chart, cells]) svg.setAttribute("viewBox", `0 0 ${count} ${HEIGHT}`);
    curve.setAttribute("d", linePath(points));
    area.setAttribute("d", areaPath(points));
    setAttributes(threshold, { x1: 0, x2: count, y1: yOf(value, top), y2: yOf(value, top) });
    threshold.style.display = value ? "" : "none";
    updateCells(cells, run, count);
  }

  show(NO_RUN);
  plot.addEventListener("pointermove", (event) => {
    const record = shown?.report.records[indexAt(cells, event.clientX, shown)];
    if (!record || !shown) {
      tooltip.remove();
      return;
    }
    tooltip.replaceChildren(...tooltipLines(record, shown.report.threshold, texts).map(createLine));
    tooltip.dataset.kind = kindOf(record);
    if (!tooltip.isConnected) {
      element.append(tooltip);
      tooltip.showPopover(); // in the top layer, with the window's coordinates
    }
    const box = tooltip.getBoundingClientRect();
    const left = Math.min(event.clientX + 12, window.innerWidth - box.width - 8);
    const top = Math.max(8, event.clientY - box.height - 12);
    tooltip.style.transform = `translate(${left}px, ${top}px)`;
  });
  plot.addEventListener("pointerleave", () => tooltip.remove());

  const observer = new ResizeObserver(onResize);
  observer.observe(body);
  return {
    element,
    show,
    height: () => body.offsetHeight || undrawnHeight(),
    dispose() {
      observer.disconnect();
      tooltip.remove();
    },
  };
}

/**
 * Updates the cells: a rectangle for each step, empty for steps that are still to come.
 *
 * @param {SVGSVGElement} cells
 * @param {Run} run
 * @param {number} count
 */
function updateCells(cells, run, count) {
  while (cells.childElementCount > count) cells.lastElementChild?.remove();
  while (cells.childElementCount < count) createSvgElement("rect", "", cells);
  const { records } = run.report;
  const gap = count > DENSE_CELLS ? 0 : 0.12;
  [...cells.children].forEach((cell, index) => {
    const record = records[index];
    const kind = record ? kindOf(record) : "open";
    const unchanged = cell.getAttribute("data-kind") === kind;
    if (unchanged && cell.getAttribute("data-count") === `${count}`) {
      return;
    }
    const top = kind === "skipped" ? 0.55 * HEIGHT : 0;
    cell.setAttribute("data-kind", kind);
    cell.setAttribute("data-count", `${count}`);
    setAttributes(cell, { x: index + gap / 2, width: 1 - gap, y: top, height: HEIGHT - top });
  });
}

/**
 * The index of the cell at a horizontal position of the pointer.
 *
 * @param {SVGSVGElement} cells
 * @param {number} clientX
 * @param {Run} run
 */
function indexAt(cells, clientX, run) {
  const box = cells.getBoundingClientRect();
  return Math.floor(((clientX - box.left) / box.width) * cellCount(run));
}

/**
 * @param {string} name
 * @param {string} className
 * @param {Element} [parent]
 */
function createElement(name, className, parent) {
  const element = document.createElement(name);
  element.className = className;
  parent?.append(element);
  return element;
}

/** @param {string} className @param {Element} parent */
function createSvg(className, parent) {
  const svg = /** @type {SVGSVGElement} */ (createSvgElement("svg", className, parent));
  svg.setAttribute("preserveAspectRatio", "none");
  return svg;
}

/** @param {string} name @param {string} className @param {Element} parent */
function createSvgElement(name, className, parent) {
  const element = /** @type {SVGElement} */ (document.createElementNS(SVG, name));
  if (className) element.setAttribute("class", className);
  parent.append(element);
  return element;
}

/** @param {Element} element @param {Record<string, number>} attributes */
function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, `${value}`);
}

/** @param {string} text */
function createLine(text) {
  const element = createElement("div", "");
  element.textContent = text;
  return element;
}
