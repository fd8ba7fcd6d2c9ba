/**
 * Prompts as the server runs them: nodes by execution id, with their inputs.
 *
 * @typedef {Record<string, {class_type: string, inputs: Record<string, unknown>}>} ApiPrompt
 */

/**
 * Whether a node, or one that its outputs reach, is still to be executed.
 *
 * @param {ApiPrompt} prompt
 * @param {string[]} cached ids of the nodes whose outputs the server has from an earlier prompt
 * @param {string} id
 * @returns {boolean} false for a node that is not in the prompt
 */
export function isPending(prompt, cached, id) {
  const reached = new Set(id in prompt ? [id] : []);
  for (const known of reached) {
    if (!cached.includes(known)) return true;
    for (const consumer of consumersOf(prompt, known)) reached.add(consumer);
  }
  return false;
}

/** @param {ApiPrompt} prompt @param {string} id @returns {string[]} the nodes linked to its outputs */
function consumersOf(prompt, id) {
  return Object.keys(prompt).filter((other) =>
    Object.values(prompt[other].inputs).some((value) => Array.isArray(value) && value[0] === id),
  );
}
