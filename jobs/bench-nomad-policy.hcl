# Nomad policy for jobs/bench.nomad.hcl: read the allocation that it measures, and the driver's
# version of its node.
#
# Run:  nomad acl policy apply -namespace default -job aliquot-bench \
#         aliquot-bench jobs/bench-nomad-policy.hcl

namespace "*" {
  capabilities = ["read-job"]
}

node {
  policy = "read"
}
