# Nomad policy for the web page: read only.
#
# Run:  nomad acl policy apply -namespace default -job ui \
#         aliquot-ui jobs/ui-nomad-policy.hcl
#
# Users of the page need the right to read what it shows: nodes, and the jobs of each of these
# namespaces. To show less, list fewer namespaces here.

namespace "*" {
  capabilities = ["list-jobs", "read-job", "read-job-scaling", "list-scaling-policies", "read-scaling-policy"]
}

node {
  policy = "read"
}
