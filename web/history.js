/** Changes of the graph as steps of the editor's history. */

import { app } from "../../scripts/app.js";

/**
 * Runs `change`, and makes it one step of the editor's history.
 *
 * @template T
 * @param {() => T} change
 * @returns {T} what it returned
 */
export function undoable(change) {
  const tracker = app.extensionManager.workflow.activeWorkflow?.changeTracker;
  tracker?.checkState(); // what the user changed before is a step of its own
  const result = change();
  tracker?.checkState();
  app.canvas.setDirty(true, true);
  return result;
}
