/**
 * Nodes by execution id, as the server names them: "7", or "12:5" for node 5 in the subgraph of
 * node 12.
 *
 * @typedef {{id: string | number, comfyClass?: string, subgraph?: Graph}} GraphNode
 * @typedef {{id?: string, nodes: GraphNode[], getNodeById(id: string): GraphNode | null}} Graph
 */

/**
 * The node with an execution id.
 *
 * @param {Graph} graph
 * @param {string} executionId
 * @returns {GraphNode | undefined}
 */
export function findNode(graph, executionId) {
  const [id, ...rest] = executionId.split(":");
  const node = graph.getNodeById(id) ?? undefined;
  if (!rest.length) return node;
  return node?.subgraph && findNode(node.subgraph, rest.join(":"));
}

/**
 * The nodes of certain classes in the graph and its subgraphs, each with its execution id. A node
 * in a subgraph that is used twice is returned twice.
 *
 * @param {Graph} graph
 * @param {string[]} classes
 * @param {string} prefix of the execution ids, for a subgraph
 * @returns {[string, GraphNode][]}
 */
export function nodesOf(graph, classes, prefix = "") {
  return graph.nodes.flatMap((node) => {
    const id = `${prefix}${node.id}`;
    const own = /** @type {[string, GraphNode][]} */ (
      classes.includes(node.comfyClass ?? "") ? [[id, node]] : []
    );
    return node.subgraph ? [...own, ...nodesOf(node.subgraph, classes, `${id}:`)] : own;
  });
}
