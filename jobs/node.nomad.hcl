# The agent that manages a node's GPU driver. When it is the node's turn, it installs the version
# that aliquot node rollout has set, and makes the node eligible again when it is healthy.
#
# Needs:  the aliquot program on the nodes (variable "command"); the raw_exec driver,
#         because the agent installs packages, loads kernel modules and reboots as root; a
#         Consul agent on the nodes. With Nomad ACLs a policy for the job's workload identity,
#         jobs/node-nomad-policy.hcl; with Consul ACLs a role for it with
#         jobs/node-consul-policy.hcl, and consul_acl = true.
# Does:   only monitors the node until there is a wanted version for its class. The job runs on
#         every node, also while the node is drained (system), so that the agent can continue
#         after the drain, a crash or a reboot. docs/nodes.md lists what it never does.
# Never:  update or stop this job during a rollout. Nomad would stop the agents of drained
#         nodes and start none there until you make these nodes eligible. Agents that systemd
#         runs (unit aliquot-node) do not have this problem.
# Run:    nomad job run jobs/node.nomad.hcl

variable "command" {
  description = "The aliquot program: a name in /usr/local/bin or /usr/bin of the nodes, or a path."
  type        = string
  default     = "aliquot"
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
  description = "Datacenters whose nodes run an agent."
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

  # Nomad places the agent before jobs of lower priority, such as after a reboot.
  priority = 90

  group "node" {
    # A node may take longer to reboot than Nomad waits for its heartbeat. The node is drained, so
    # Nomad would not place a lost allocation there again. With lost_after, Nomad keeps the
    # allocation, and it continues when the node is back.
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

      # Before it exits, the agent finishes an installation that has begun. The Nomad agent's
      # max_kill_timeout limits this time.
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

      # On a host with systemd, packages are installed outside of these limits. On others, kernel
      # modules are compiled within them: set several gigabytes of memory there.
      resources {
        cpu    = 100
        memory = 256
      }
    }
  }
}
