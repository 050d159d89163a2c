# What the autoscaler may do in Nomad beside jobs/autoscaler-nomad-policy.hcl where it starts
# and ends nodes: read what runs and what waits in every namespace, drain nodes and forget
# those that are gone. Where it does not see a namespace, nodes look empty that are not.
#
# Run:  nomad acl policy apply -namespace default -job autoscaler \
#         aliquot-autoscaler-nodes jobs/autoscaler-nodes-nomad-policy.hcl

namespace "*" {
  capabilities = ["list-jobs", "read-job"]
}

node {
  policy = "write"
}
