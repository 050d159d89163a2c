# What jobs/bench.nomad.hcl may do in Nomad: read the allocation that it measures, and the
# driver's version of its node.
#
# Run:  nomad acl policy apply -namespace default -job aliquot-bench \
#         aliquot-bench jobs/bench-nomad-policy.hcl

namespace "*" {
  capabilities = ["read-job"]
}

node {
  policy = "read"
}
