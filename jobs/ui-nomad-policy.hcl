# What the page may do in Nomad: read, and nothing else.
#
# Run:  nomad acl policy apply -namespace default -job ui \
#         aliquot-ui jobs/ui-nomad-policy.hcl
#
# Users of the page must be allowed to read what it shows: nodes, and the jobs of each of
# these namespaces. Name fewer namespaces here to show less.

namespace "*" {
  capabilities = ["list-jobs", "read-job", "read-job-scaling", "list-scaling-policies", "read-scaling-policy"]
}

node {
  policy = "read"
}
