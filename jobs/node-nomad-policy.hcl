# Nomad policy for the agent of jobs/node.nomad.hcl: read nodes and their allocations, drain a
# node and make it eligible again.
#
# Run:  nomad acl policy apply -namespace default -job node \
#         aliquot-node jobs/node-nomad-policy.hcl
#
# The agent sees only allocations of namespaces that it may read. Keep the "*": with fewer
# namespaces, the agent would take nodes for empty on which other namespaces run allocations.

namespace "*" {
  capabilities = ["read-job"]
}

node {
  policy = "write"
}
