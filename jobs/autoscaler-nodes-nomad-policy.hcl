# Nomad policy for an autoscaler that starts and stops nodes, in addition to
# jobs/autoscaler-nomad-policy.hcl: read allocations and waiting jobs in every namespace, drain nodes
# and remove nodes that are down. If the autoscaler cannot read a namespace, it takes nodes that
# run that namespace's jobs for empty.
#
# Run:  nomad acl policy apply -namespace default -job autoscaler \
#         aliquot-autoscaler-nodes jobs/autoscaler-nodes-nomad-policy.hcl

namespace "*" {
  capabilities = ["list-jobs", "read-job"]
}

node {
  policy = "write"
}
