# What the agent of jobs/node.nomad.hcl may do in Nomad: read nodes and their
# allocations, drain a node and make it eligible again.
#
# Run:  nomad acl policy apply -namespace default -job node \
#         aliquot-node jobs/node-nomad-policy.hcl
#
# It sees of allocations only those of namespaces that it may read: with fewer than all it
# would take a node for empty that is not, so leave the star.

namespace "*" {
  capabilities = ["read-job"]
}

node {
  policy = "write"
}
