# Nomad policy for the web page: read only.
#
# Run:  nomad acl policy apply -namespace default -job ui \
#         aliquot-ui jobs/ui-nomad-policy.hcl
#
# Users see only nodes, and jobs of namespaces, that their own tokens may read. To show less to
# everybody, list fewer namespaces here.

namespace "*" {
  capabilities = ["list-jobs", "read-job", "read-job-scaling", "list-scaling-policies", "read-scaling-policy"]
}

node {
  policy = "read"
}
