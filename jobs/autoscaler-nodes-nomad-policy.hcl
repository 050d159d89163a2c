# Nomad policy for an autoscaler that starts and stops nodes, in addition to
# jobs/autoscaler-nomad-policy.hcl: read what runs and what waits in every namespace, drain nodes
# and remove those that have gone. Without access to a namespace, nodes look empty that are not.
#
# Run:  nomad acl policy apply -namespace default -job autoscaler \
#         aliquot-autoscaler-nodes jobs/autoscaler-nodes-nomad-policy.hcl

namespace "*" {
  capabilities = ["list-jobs", "read-job"]
}

node {
  policy = "write"
}
