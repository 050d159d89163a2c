# Nomad policy for the autoscaler: read jobs, their allocations, deployments and scaling
# policies, set the counts of groups, and hold the lock of its two agents.
#
# Run:  nomad acl policy apply -namespace default -job autoscaler \
#         aliquot-autoscaler jobs/autoscaler-nomad-policy.hcl

# Each namespace in the job's variable namespaces needs its own block with the same
# capabilities, without the lock; for ["*"] this is namespace "*".

namespace "default" {
  capabilities = ["list-jobs", "read-job", "read-job-scaling", "scale-job", "list-scaling-policies", "read-scaling-policy"]

  variables {
    path "nomad-autoscaler/lock" {
      capabilities = ["write", "read", "list", "destroy"]
    }
  }
}
