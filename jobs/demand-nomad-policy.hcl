# Nomad policy for jobs/demand.nomad.hcl: list and read jobs.
#
# Run:  nomad acl policy apply -namespace default -job aliquot-demand \
#         aliquot-demand jobs/demand-nomad-policy.hcl

namespace "*" {
  capabilities = ["list-jobs", "read-job"]
}
