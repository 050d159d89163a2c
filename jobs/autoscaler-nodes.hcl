# A policy of the Nomad Autoscaler for nodes that a cloud's scaling group starts and stops. It
# is not a job.
#
# Needs:  jobs/autoscaler.nomad.hcl with this file; nodes with one h100 each in a node pool
#         "rented", which the query and the target name; with ACLs also
#         jobs/autoscaler-nodes-nomad-policy.hcl. This example uses an AWS autoscaling group;
#         gce-mig and azure-vmss have other keys.
# Does:   starts nodes for allocations that Nomad cannot place, keeps room for one more replica
#         free, and stops empty nodes.
# Run:    nomad job run -var node_policies="$(cat jobs/autoscaler-nodes.hcl)" \
#           -var node_target=aws-asg -var 'node_target_config={aws_region="eu-central-1"}' \
#           jobs/autoscaler.nomad.hcl

scaling "rented-h100" {
  type    = "cluster"
  enabled = true
  min     = 0
  max     = 8

  policy {
    evaluation_interval = "10s"
    # Longer than a new node takes to join, so that none is ordered twice.
    cooldown = "2m"

    check "nodes" {
      source = "aliquot-apm"
      # standby: keep room for one more replica of 10 slices. gpus and slices: a new node has
      # one GPU of 20 slices. keep: a node stays for 10 minutes after its last allocation ended.
      query = "nodes class=h100 pool=rented standby=1x10 gpus=1 slices=20 keep=10m"

      strategy "pass-through" {}
    }

    target "aws-asg" {
      aws_asg_name = "rented-h100"
      node_pool    = "rented"
      # Only nodes without allocations are stopped, after a drain.
      node_selector_strategy = "empty_ignore_system"
      node_drain_deadline    = "1h"
      node_purge             = "true"
    }
  }
}
