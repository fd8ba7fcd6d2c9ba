/**
 * A sampling run as the strip shows it: plain data, built from the events that the node sends.
 *
 * @typedef {object} StepRecord one evaluation of the model, as `StepRecord.to_json()` returns it
 * @property {number} step index of the sampler step, from 0
 * @property {number} sigma
 * @property {boolean} skipped
 * @property {string} reason
 * @property {Kind} [kind] of the reason; missing in runs stored by earlier versions
 * @property {number | null} distance
 * @property {number | null} accumulated null where it is no number
 * @property {number | null} seconds null where the device's times are not known, or not yet
 *
 * @typedef {object} Report of a run, as `RunReport.to_json()` returns it
 * @property {string} family_name
 * @property {string} method the mode, or the parts it is made of
 * @property {string} profile empty if none was used
 * @property {number} threshold
 * @property {string} evidence what a preset was resolved to, and why
 * @property {string} preset
 * @property {number | null} [wanted_steps] null where the threshold decides how many are computed
 * @property {string} expected_change how much the picture is expected to differ, empty if unknown
 * @property {string} outcome
 * @property {number} steps
 * @property {number} computed
 * @property {number} skipped
 * @property {number | null} estimated_speedup null where the device's times are not known
 * @property {number | null} saved_seconds likewise
 * @property {number} bytes_held
 * @property {string} advice
 * @property {string[]} warnings
 * @property {StepRecord[]} records
 *
 * @typedef {object} Run
 * @property {boolean} live whether it has not ended
 * @property {"waiting" | "unsampled"} [state] the node has not sampled in the prompt that is
 *   running, or did not in the last one
 * @property {number} [began] when it began, in milliseconds since the epoch, by the server's clock
 * @property {string | null} [prompt] the id of its prompt
 * @property {Report} report
 * @property {string[]} notes sentences for the user, from when the node was executed
 * @property {string} [line] the recognised family and the settings, until sampling starts
 *
 * @typedef {"ready" | "start" | "step" | "end"} EventName
 * @typedef {object} EventData
 * @property {string | null} [graph] the id of the graph that the prompt was made from
 * @property {string | null} [prompt] the id of the prompt
 * @property {number | null} [began] when the run began
 * @property {Report} [report]
 * @property {StepRecord} [record]
 * @property {boolean} [cached]
 * @property {string} [line]
 * @property {string[]} [notes]
 *
 * @typedef {Record<string, string>} Texts translated phrases by key, with `{name}` for values
 *
 * @typedef {"skipped" | "computed" | "forced" | "capped" | "changed"} Kind
 */

import { format, translate } from "./sentences.js";

const EMPTY_REPORT = /** @type {Report} */ ({
  family_name: "",
  method: "",
  profile: "",
  threshold: 0,
  evidence: "",
  preset: "auto",
  wanted_steps: null,
  expected_change: "",
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

/** A node that has not run. */
export const NO_RUN = /** @type {Run} */ ({ live: false, notes: [], report: EMPTY_REPORT });

/**
 * The run after an event of the node.
 *
 * @param {Run | undefined} run
 * @param {EventName} event
 * @param {EventData} data
 * @returns {Run}
 */
export function applyEvent(run, event, data) {
  const { prompt, began = run?.began } = data;
  const known = { notes: run?.notes ?? [], began: began ?? 0, prompt };
  switch (event) {
    case "ready": {
      const { cached: live = false, line, notes = [] } = data;
      return { ...known, live, line, notes, report: EMPTY_REPORT };
    }
    case "start":
      return { ...known, live: true, report: { ...EMPTY_REPORT, ...data.report } };
    case "step": {
      const report = run?.live ? run.report : EMPTY_REPORT; // if the page was opened during the run
      return { ...known, live: true, report: withRecord(report, data.record) };
    }
    case "end":
      return { ...known, live: false, report: { ...EMPTY_REPORT, ...data.report } };
  }
}

/**
 * Whether an event's run goes back further than what the page has heard of it.
 *
 * @param {Run} run after a step
 */
export function beginsLate({ live, report }) {
  return live && report.records.length === 1 && !report.steps;
}

/**
 * Whether the server's record of a node's last run is to be shown instead of the page's own.
 *
 * @param {Run} kept by the server
 * @param {Run | undefined} shown by the page
 */
export function supersedes(kept, shown) {
  if (!shown) return true;
  const [a, b] = [kept.began ?? 0, shown.began ?? 0];
  if (a !== b || shown.state) return a > b;
  return !kept.live || (shown.live && kept.report.records.length >= shown.report.records.length);
}

/**
 * A node's strip while its prompt runs, until it samples.
 *
 * @param {Run | undefined} before the node's last run
 * @returns {Run}
 */
export function waiting(before) {
  return { ...NO_RUN, state: "waiting", began: before?.began, notes: before?.notes ?? [] };
}

/**
 * A run once its prompt is over.
 *
 * @param {Run} run
 * @returns {Run} the same if it has ended
 */
export function afterPrompt(run) {
  if (!run.live && run.state !== "waiting") return run;
  const { began, prompt, notes, report } = run;
  if (!report.records.length) return { ...NO_RUN, state: "unsampled", began, prompt, notes };
  return { ...run, live: false, report: { ...report, outcome: "interrupted" } };
}

/** @param {Report} report @param {StepRecord} record @returns {Report} */
function withRecord(report, record) {
  const records = [...report.records, record];
  const skipped = records.filter((each) => each.skipped).length;
  return { ...report, records, skipped, computed: records.length - skipped };
}

/**
 * The kind of a record's reason (`ReasonKind` in `report.py`), which decides a cell's colour.
 *
 * @param {StepRecord} record
 * @returns {Kind}
 */
export function kindOf(record) {
  return record.kind ?? (record.skipped ? "skipped" : "computed");
}

/** @param {Run} run @returns {number} the number of the strip's cells */
export function cellCount({ live, report }) {
  return live ? Math.max(report.steps, report.records.length) : report.records.length;
}

/**
 * The line below the cells: what was computed, skipped and saved, or what is going on.
 *
 * @param {Run} run
 * @param {Texts} texts
 */
export function summaryLine(run, texts) {
  const { live, line, notes, report, state } = run;
  const { computed, skipped, estimated_speedup: speedup, saved_seconds: saved } = report;
  const count = report.records.length;
  if (state) return state === "waiting" ? texts.waiting : texts.unsampled;
  if (line) return translate(line, texts);
  if (live) return format(texts.running, { count, steps: report.steps || "?", skipped });
  if (!report.family_name) return notes.length ? "" : texts.none;
  if (report.threshold === 0) return texts.off;
  const unit = count === report.steps ? texts.steps : texts.evaluations;
  const parts = [format(texts.computed, { computed, count, unit })];
  if (skipped && speedup !== null && saved !== null) {
    parts.push(`${speedup.toFixed(speedup < 10 ? 2 : 1)}x`);
    parts.push(format(texts.saved, { time: formatDuration(saved) }));
  }
  if (report.bytes_held) parts.push(format(texts.held, { size: formatSize(report.bytes_held) }));
  const change = report.expected_change;
  if (change) parts.push(texts[`change ${change}`] ?? change);
  if (report.outcome === "interrupted") parts.push(texts.interrupted);
  if (report.outcome === "failed") parts.push(texts.failed);
  return parts.join(" · ");
}

/** @param {Run} run @returns {string} the family, the method and the profile */
export function titleOf({ report }) {
  return [report.family_name, report.method, report.profile].filter(Boolean).join(" · ");
}

/**
 * What decides how many steps are computed: the threshold, a wanted speed-up or a plan.
 *
 * @param {Run} run
 * @param {Texts} texts
 */
export function limitLabel({ report }, texts) {
  const { method, preset, steps, threshold, wanted_steps: count } = report;
  if (count) {
    const what = preset === "auto" ? texts.planned : preset;
    return format(texts.wanted, { what, count, steps });
  }
  if (method === "planned") return texts.planned;
  return threshold ? `${texts.threshold} ${threshold}` : "";
}

/** @param {Run} run @param {Texts} texts @returns {string[]} evidence, notes, warnings, advice */
export function messagesOf({ live, notes, report }, texts) {
  const { advice, evidence, warnings } = report;
  const said = [evidence, ...notes, ...warnings, live ? "" : advice].filter(Boolean);
  return said.map((sentence) => translate(sentence, texts));
}

/**
 * The lines of a cell's tooltip.
 *
 * @param {StepRecord} record
 * @param {number} threshold
 * @param {Texts} texts
 */
export function tooltipLines(record, threshold, texts) {
  const decision = record.skipped ? texts.skipped : texts.computedOne;
  const lines = [
    `${format(texts.step, { step: record.step + 1 })} · ${decision}: ${reasonOf(record, texts)}`,
    `sigma ${record.sigma.toPrecision(4)}`,
  ];
  if (record.seconds !== null) lines[1] += ` · ${formatDuration(record.seconds)}`;
  if (record.distance !== null && record.accumulated !== null) {
    const sum = `${record.accumulated.toFixed(4)} / ${threshold}`;
    lines.push(`${format(texts.distance, { distance: record.distance.toFixed(4) })} · Σ ${sum}`);
  }
  return lines;
}

/** @param {StepRecord} record @param {Texts} texts */
function reasonOf(record, texts) {
  return texts[`reason ${record.reason}`] ?? record.reason;
}

/** @param {number} seconds */
function formatDuration(seconds) {
  if (Math.abs(seconds) < 0.9995) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  return `${seconds.toFixed(1)} s`;
}

/** @param {number} bytes */
function formatSize(bytes) {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(0)} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
