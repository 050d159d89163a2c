# Nomad policy for jobs/bench.nomad.hcl: read the allocation that the job measures, and the driver
# version of the allocation's node.
#
# Run:  nomad acl policy apply -namespace default -job aliquot-bench \
#         aliquot-bench jobs/bench-nomad-policy.hcl

namespace "*" {
  capabilities = ["read-job"]
}

node {
  policy = "read"
}
