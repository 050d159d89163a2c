# What the autoscaler may do in Nomad: read jobs, their allocations, deployments and
# scaling policies, set the counts of groups, and hold the lock of its two agents.
#
# Run:  nomad acl policy apply -namespace default -job autoscaler \
#         aliquot-autoscaler jobs/autoscaler-nomad-policy.hcl

# A namespace of the job's variable namespaces needs a block of its own with the same
# capabilities and without the lock; for ["*"] it is namespace "*".

namespace "default" {
  capabilities = ["list-jobs", "read-job", "read-job-scaling", "scale-job", "list-scaling-policies", "read-scaling-policy"]

  variables {
    path "nomad-autoscaler/lock" {
      capabilities = ["write", "read", "list", "destroy"]
    }
  }
}
