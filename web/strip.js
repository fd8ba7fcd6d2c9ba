/**
 * The strip on the node: a cell per step, the curve above, a line below. DOM only.
 *
 * @import { Run, Texts } from "./run.js"
 */

import { areaOf, curveOf, HEIGHT, heightOf, pathOf, topOf } from "./chart.js";
import { adviceOf, cellCount, detailsOf, headOf, IDLE, kindOf, limitOf, lineOf } from "./run.js";

const EMPTY = 24; // cells of a strip that has nothing to show
const SVG = "http://www.w3.org/2000/svg";

/**
 * @typedef {object} Strip
 * @property {HTMLElement} element
 * @property {(run: Run) => void} show
 * @property {() => number} height of what it shows, in pixels
 * @property {() => void} dispose
 */

/**
 * @param {Texts} texts
 * @param {() => void} onResize called when the strip needs another height
 * @returns {Strip}
 */
export function makeStrip(texts, onResize) {
  const element = tag("div", "teacache-strip");
  const body = tag("div", "teacache-body", element);
  const head = tag("div", "teacache-head", body);
  const family = tag("span", "teacache-family", head);
  const limit = tag("span", "teacache-limit", head);
  const plot = tag("div", "teacache-plot", body);
  const chart = drawing("teacache-chart", plot);
  const area = shape("path", "teacache-area", chart);
  const curve = shape("path", "teacache-curve", chart);
  const threshold = shape("line", "teacache-threshold", chart);
  const cells = drawing("teacache-cells", plot);
  const line = tag("div", "teacache-line", body);
  const advice = tag("div", "teacache-advice", body);
  const tip = tag("div", "teacache-tip");
  tip.popover = "manual";

  /** @type {Run | undefined} */
  let shown;

  /** @param {Run} run */
  function show(run) {
    shown = run;
    const { records, method } = run.report;
    const value = method === "planned" ? 0 : run.report.threshold;
    const count = cellCount(run) || EMPTY;
    element.dataset.live = String(run.live);
    element.classList.toggle("teacache-dense", count > 120);
    family.textContent = headOf(run);
    limit.textContent = limitOf(run, texts);
    line.textContent = lineOf(run, texts);
    advice.replaceChildren(...adviceOf(run).map(paragraph));

    const top = topOf(records, value);
    const points = curveOf(records, top);
    for (const drawn of [chart, cells]) drawn.setAttribute("viewBox", `0 0 ${count} ${HEIGHT}`);
    curve.setAttribute("d", pathOf(points));
    area.setAttribute("d", areaOf(points));
    place(threshold, { x1: 0, x2: count, y1: heightOf(value, top), y2: heightOf(value, top) });
    threshold.style.display = value ? "" : "none";
    showCells(cells, run, count);
  }

  show(IDLE);
  plot.addEventListener("pointermove", (event) => {
    const record = shown?.report.records[indexAt(cells, event.clientX, shown)];
    if (!record || !shown) {
      tip.remove();
      return;
    }
    tip.replaceChildren(...detailsOf(record, shown.report.threshold, texts).map(paragraph));
    tip.dataset.kind = kindOf(record);
    if (!tip.isConnected) {
      element.append(tip);
      tip.showPopover(); // above everything, and in the window's own coordinates
    }
    const box = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 12, window.innerWidth - box.width - 8);
    tip.style.transform = `translate(${left}px, ${Math.max(8, event.clientY - box.height - 12)}px)`;
  });
  plot.addEventListener("pointerleave", () => tip.remove());

  const observer = new ResizeObserver(onResize);
  observer.observe(body);
  return {
    element,
    show,
    height: () => body.offsetHeight,
    dispose() {
      observer.disconnect();
      tip.remove();
    },
  };
}

/**
 * Brings the cells up to date: one rectangle each, those to come as empty ones.
 *
 * @param {SVGSVGElement} cells
 * @param {Run} run
 * @param {number} count
 */
function showCells(cells, run, count) {
  while (cells.childElementCount > count) cells.lastElementChild?.remove();
  while (cells.childElementCount < count) shape("rect", "", cells);
  const { records } = run.report;
  const gap = count > 120 ? 0 : 0.12;
  [...cells.children].forEach((cell, index) => {
    const record = records[index];
    const kind = record ? kindOf(record) : "open";
    if (cell.getAttribute("data-kind") === kind && cell.getAttribute("data-of") === `${count}`) {
      return;
    }
    const top = kind === "skipped" ? 0.55 * HEIGHT : 0;
    cell.setAttribute("data-kind", kind);
    cell.setAttribute("data-of", `${count}`);
    place(cell, { x: index + gap / 2, width: 1 - gap, y: top, height: HEIGHT - top });
  });
}

/** @param {SVGSVGElement} cells @param {number} clientX @param {Run} run */
function indexAt(cells, clientX, run) {
  const box = cells.getBoundingClientRect();
  return Math.floor(((clientX - box.left) / box.width) * cellCount(run));
}

/**
 * @param {string} name
 * @param {string} className
 * @param {Element} [parent]
 */
function tag(name, className, parent) {
  const element = document.createElement(name);
  element.className = className;
  parent?.append(element);
  return element;
}

/** @param {string} className @param {Element} parent */
function drawing(className, parent) {
  const svg = /** @type {SVGSVGElement} */ (shape("svg", className, parent));
  svg.setAttribute("preserveAspectRatio", "none");
  return svg;
}

/** @param {string} name @param {string} className @param {Element} parent */
function shape(name, className, parent) {
  const element = /** @type {SVGElement} */ (document.createElementNS(SVG, name));
  if (className) element.setAttribute("class", className);
  parent.append(element);
  return element;
}

/** @param {Element} element @param {Record<string, number>} attributes */
function place(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, `${value}`);
}

/** @param {string} text */
function paragraph(text) {
  const element = tag("div", "");
  element.textContent = text;
  return element;
}
