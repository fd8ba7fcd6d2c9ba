/**
 * A sampling run as the strip shows it: pure data, built from the events that the node sends.
 *
 * @typedef {object} StepRecord one evaluation of the model
 * @property {number} step index of the sampler step, from 0
 * @property {number} sigma
 * @property {boolean} skipped
 * @property {string} reason
 * @property {Kind} [kind] how the reason is shown; not in runs kept by earlier versions
 * @property {number | null} distance
 * @property {number} accumulated
 * @property {number} seconds
 *
 * @typedef {object} Report what `RunReport.to_json()` gives
 * @property {string} family_name
 * @property {string} method the mode, or its parts
 * @property {string} profile empty where none decided
 * @property {number} threshold
 * @property {string} evidence what a preset was resolved to, and why
 * @property {string} outcome
 * @property {number} steps
 * @property {number} computed
 * @property {number} skipped
 * @property {number} estimated_speedup
 * @property {number} saved_seconds
 * @property {number} bytes_held
 * @property {string} advice
 * @property {string[]} warnings
 * @property {StepRecord[]} records
 *
 * @typedef {object} Run
 * @property {boolean} live whether more steps are to come
 * @property {Report} report
 * @property {string[]} notes what the node said when it was prepared, and the user should know
 * @property {string} [line] what will run, until the first step does
 *
 * @typedef {Record<string, string>} Texts phrases by key; `{name}` stands for a value
 *
 * @typedef {"skipped" | "computed" | "forced" | "capped" | "changed"} Kind
 */

const UNKNOWN = /** @type {Report} */ ({
  family_name: "",
  method: "",
  profile: "",
  threshold: 0,
  evidence: "",
  outcome: "running",
  steps: 0,
  computed: 0,
  skipped: 0,
  estimated_speedup: 1,
  saved_seconds: 0,
  bytes_held: 0,
  advice: "",
  warnings: [],
  records: [],
});

/** No run at all. */
export const IDLE = /** @type {Run} */ ({ live: false, notes: [], report: UNKNOWN });

/**
 * The run after one more event of the node.
 *
 * @param {Run | undefined} run
 * @param {"ready" | "start" | "step" | "end"} event
 * @param {{report?: Report, record?: StepRecord, cached?: boolean, line?: string,
 *   notes?: string[]}} data
 * @returns {Run}
 */
export function advance(run, event, data) {
  const notes = run?.notes ?? [];
  switch (event) {
    case "ready": {
      const { cached: live = false, line } = data;
      return { live, line, notes: data.notes ?? [], report: UNKNOWN };
    }
    case "start":
      return { live: true, notes, report: { ...UNKNOWN, ...data.report } };
    case "step": {
      const report = run?.live ? run.report : UNKNOWN; // the page was opened during the run
      return { live: true, notes, report: withRecord(report, data.record) };
    }
    case "end":
      return { live: false, notes, report: { ...UNKNOWN, ...data.report } };
  }
}

/** @param {Report} report @param {StepRecord} record @returns {Report} */
function withRecord(report, record) {
  const records = [...report.records, record];
  const skipped = records.filter((known) => known.skipped).length;
  return { ...report, records, skipped, computed: records.length - skipped };
}

/**
 * How a cell is coloured: by the kind of its reason, which the engine declares (`report.py`).
 *
 * @param {StepRecord} record
 * @returns {Kind}
 */
export function kindOf(record) {
  return record.kind ?? (record.skipped ? "skipped" : "computed");
}

/** @param {Run} run @returns {number} how many cells the strip has */
export function cellCount({ live, report }) {
  return live ? Math.max(report.steps, report.records.length) : report.records.length;
}

/**
 * The line under the cells.
 *
 * @param {Run} run
 * @param {Texts} texts
 */
export function lineOf(run, texts) {
  const { live, line, notes, report } = run;
  const { computed, skipped } = report;
  const count = report.records.length;
  if (line) return line;
  if (live) return fill(texts.running, { count, steps: report.steps || "?", skipped });
  if (!report.family_name) return notes.length ? "" : texts.none;
  if (report.threshold === 0) return texts.off;
  const unit = count === report.steps ? texts.steps : texts.evaluations;
  const parts = [fill(texts.computed, { computed, count, unit })];
  if (skipped) {
    parts.push(
      `${report.estimated_speedup.toFixed(report.estimated_speedup < 10 ? 2 : 1)}x`,
      fill(texts.saved, { time: duration(report.saved_seconds) }),
    );
  }
  if (report.bytes_held) parts.push(fill(texts.held, { size: size(report.bytes_held) }));
  if (report.outcome === "interrupted") parts.push(texts.interrupted);
  if (report.outcome === "failed") parts.push(texts.failed);
  return parts.join(" · ");
}

/** @param {Run} run @returns {string} what the cache ran as */
export function headOf({ report }) {
  return [report.family_name, report.method, report.profile].filter(Boolean).join(" · ");
}

/** @param {Run} run @param {Texts} texts @returns {string} what decides between skips */
export function limitOf({ report }, texts) {
  if (report.method === "planned") return texts.planned;
  return report.threshold ? `${texts.threshold} ${report.threshold}` : "";
}

/** @param {Run} run @returns {string[]} sentences on what the user can do, mostly none */
export function adviceOf({ live, notes, report }) {
  return [report.evidence, ...notes, ...report.warnings, live ? "" : report.advice].filter(Boolean);
}

/**
 * What a cell says when it is pointed at, a line each.
 *
 * @param {StepRecord} record
 * @param {number} threshold
 * @param {Texts} texts
 */
export function detailsOf(record, threshold, texts) {
  const decision = record.skipped ? texts.skipped : texts.computedOne;
  const lines = [
    `${fill(texts.step, { step: record.step + 1 })} · ${decision}: ${reasonOf(record, texts)}`,
    `sigma ${record.sigma.toPrecision(4)} · ${duration(record.seconds)}`,
  ];
  if (record.distance !== null) {
    const sum = `${record.accumulated.toFixed(4)} / ${threshold}`;
    lines.push(`${fill(texts.distance, { distance: record.distance.toFixed(4) })} · Σ ${sum}`);
  }
  return lines;
}

/** @param {StepRecord} record @param {Texts} texts */
function reasonOf(record, texts) {
  return texts[`reason ${record.reason}`] ?? record.reason;
}

/** @param {string} text @param {Record<string, unknown>} values */
function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** @param {number} seconds */
export function duration(seconds) {
  if (Math.abs(seconds) < 0.9995) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  return `${seconds.toFixed(1)} s`;
}

/** @param {number} bytes */
export function size(bytes) {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(0)} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
