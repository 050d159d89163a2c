# Nomad policy for the web page: read only.
#
# Run:  nomad acl policy apply -namespace default -job ui \
#         aliquot-ui jobs/ui-nomad-policy.hcl
#
# The page shows these namespaces. A user signs in with a token that may read nodes, and the jobs of
# all of these namespaces.

namespace "*" {
  capabilities = ["list-jobs", "read-job", "read-job-scaling", "list-scaling-policies", "read-scaling-policy"]
}

node {
  policy = "read"
}
