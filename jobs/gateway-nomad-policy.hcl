# Nomad policy for the gateway: read and set the counts of the groups that it starts from zero,
# and read native services.
#
# Run:  nomad acl policy apply -namespace default -job gateway \
#         aliquot-gateway jobs/gateway-nomad-policy.hcl

namespace "default" {
  capabilities = ["read-job", "read-job-scaling", "scale-job"]
}
