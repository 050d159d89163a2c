# The agent that manages a node's GPU driver. When it is the node's turn, it brings the node to
# the version of aliquot node rollout, and returns the node to service when it is healthy.
#
# Needs:  the aliquot program on the nodes (variable "command"); the raw_exec driver,
#         because it installs packages, loads kernel modules and reboots as root; a Consul
#         agent on the nodes. With Nomad ACLs a policy for the job's workload identity,
#         jobs/node-nomad-policy.hcl; with Consul ACLs a role for it with
#         jobs/node-consul-policy.hcl, and consul_acl = true.
# Does:   only monitors, until there is a wanted version for the node's class. It runs on every
#         node, and keeps running while a node is drained (system), so that it can continue
#         after the drain, a crash and a reboot. docs/nodes.md lists what it never does.
# Never:  update or stop this job during a rollout. Nomad would end the agents of drained
#         nodes and place none there again until you make these nodes eligible. If you cannot
#         avoid that, run agents with systemd (unit aliquot-node).
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

  # Before everything else that returns to a node after a reboot.
  priority = 90

  group "node" {
    # A node that reboots may be away for longer than Nomad waits for its heartbeat, and it is
    # drained: a lost allocation would not be placed there again. This one is kept, and
    # continues when the node is back.
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

      # The agent finishes an installation that has begun before it exits; the Nomad agent's
      # max_kill_timeout caps this.
      kill_timeout = "20m"

      # The task connects to Nomad through its own socket, with the job's workload identity.
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

      # Where systemd runs the host, packages are installed outside of this limit. Elsewhere
      # modules are compiled within it: set some gigabytes there.
      resources {
        cpu    = 100
        memory = 256
      }
    }
  }
}
