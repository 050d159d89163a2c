# The agent that looks after a node's GPU driver: it brings the node to the version that
# aliquot node rollout says, when it is the node's turn, and gives it back when it is well.
#
# Needs:  the aliquot program on the nodes (variable "command"); the raw_exec driver,
#         because it installs packages, loads kernel modules and reboots as root; a Consul
#         agent on the nodes. With Nomad ACLs a policy for the job's workload identity,
#         jobs/node-nomad-policy.hcl; with Consul ACLs a role for it with
#         jobs/node-consul-policy.hcl, and consul_acl = true.
# Does:   nothing but look, until a version is wanted of the node's class. It runs on every
#         node, and keeps running while a node is drained (system): that is how it can go
#         on after the drain, a crash and a reboot. docs/nodes.md says what it never does.
# Never:  update or stop this job during a rollout. Nomad would end the agents of drained
#         nodes and place none there again, until you make these nodes eligible. Run agents
#         by systemd (unit aliquot-node) where you cannot promise that.
# Run:    nomad job run jobs/node.nomad.hcl

variable "command" {
  description = "Path of the aliquot program on the nodes."
  type        = string
  default     = "/usr/local/bin/aliquot"
}

variable "consul" {
  description = "Consul's HTTP address as seen from the job's node."
  type        = string
  default     = "127.0.0.1:8500"
}

variable "consul_acl" {
  description = "Whether Nomad gives the task a Consul token for its workload identity."
  type        = bool
  default     = false
}

variable "datacenters" {
  description = "Datacenters whose nodes get an agent."
  type        = list(string)
  default     = ["*"]
}

variable "args" {
  description = "Further flags of aliquot node agent, such as -key=aliquot/node."
  type        = list(string)
  default     = []
}

job "node" {
  type        = "system"
  datacenters = var.datacenters

  # Before whatever else comes back to a node after a reboot.
  priority = 90

  group "node" {
    # A node that reboots may be away for longer than Nomad waits for its heartbeat, and it
    # is drained: an allocation that is lost would not be placed there again. This one is
    # kept, and goes on when the node is back.
    disconnect {
      lost_after = "24h"
    }

    restart {
      attempts = 10
      interval = "5m"
      delay    = "5s"
      mode     = "delay"
    }

    task "agent" {
      driver = "raw_exec"

      # An installation that has begun is finished before the agent ends; Nomad caps this
      # at its agent's max_kill_timeout.
      kill_timeout = "20m"

      # It asks Nomad through the task's own socket, with the identity that Nomad gives
      # this job.
      identity {
        env = true
      }

      dynamic "consul" {
        for_each = var.consul_acl ? [true] : []
        content {}
      }

      env {
        NOMAD_ADDR       = "unix://${NOMAD_SECRETS_DIR}/api.sock"
        CONSUL_HTTP_ADDR = var.consul
      }

      config {
        command = var.command
        args    = concat(["node", "agent", "-node", "${node.unique.id}"], var.args)
      }

      # Packages are installed outside of this limit where systemd runs the host. Elsewhere
      # modules are compiled within it: give it some gigabytes there.
      resources {
        cpu    = 100
        memory = 256
      }
    }
  }
}
