# Learns the typical demand of GPU tasks. Packing policies use it to rank nodes.
#
# Needs:  the aliquot program on the nodes (variable "command"); Consul. With Nomad ACLs a
#         policy for the job's workload identity, jobs/demand-nomad-policy.hcl; with Consul
#         ACLs a role for it with jobs/demand-consul-policy.hcl, and consul_acl = true.
# Does:   runs aliquot demand -learn at the times of var.cron. This moves the typical demand in
#         Consul KV a fifth of the way towards the requests of the jobs that Nomad knows. The
#         nodes' drivers read it within a minute; see docs/packing.md.
# Run:    nomad job run jobs/demand.nomad.hcl

variable "name" {
  description = "Name of the job."
  type        = string
  default     = "aliquot-demand"
}

variable "cron" {
  description = "When the job learns, in the syntax of Nomad's periodic block. Nomad removes ended jobs after four hours by default, so learn more often than that."
  type        = string
  default     = "17 * * * *"
}

variable "driver" {
  description = "Task driver that runs the command: exec or raw_exec."
  type        = string
  default     = "exec"
}

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

job "demand" {
  id   = var.name
  name = var.name
  type = "batch"

  periodic {
    crons            = [var.cron]
    prohibit_overlap = true
  }

  group "demand" {
    # If Consul or Nomad does not answer, the next periodic run is soon enough.
    restart {
      attempts = 2
      interval = "10m"
      delay    = "30s"
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "learn" {
      driver = var.driver

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
        args    = ["demand", "-learn"]
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }
  }
}
