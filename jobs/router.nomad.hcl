# The router: splits traffic in Consul by the rate that each hardware class delivers.
#
# Needs:  the aliquot program on the nodes (variable "command"); a Consul agent. With
#         Consul ACLs a role for the job's workload identity with
#         jobs/router-policy.hcl, and consul_acl = true.
# Does:   writes service-defaults, service-resolver, service-splitter and
#         service-router entries for every service that has aliquot_route = "true" in its
#         meta or is in variable "services". Two routers run: one leads, the other takes
#         over within seconds. The port "admin" serves the state at /v1/status, and
#         /metrics.
# Run:    nomad job run jobs/router.nomad.hcl

variable "name" {
  description = "Name of the job, and of the service in Consul."
  type        = string
  default     = "aliquot-router"
}

variable "services" {
  description = "Service and class blocks of the configuration, see docs/configuration.md."
  type        = string
  default     = ""
}

variable "settings" {
  description = "Further settings of the configuration, such as limits."
  type        = string
  default     = ""
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

variable "count" {
  description = "Number of routers. One of them leads; the others stand by."
  type        = number
  default     = 2
}

job "router" {
  name = var.name
  type = "service"

  group "router" {
    count = var.count

    # Restart a crashed router at once, and never give up.
    restart {
      attempts = 10
      interval = "5m"
      delay    = "1s"
      mode     = "delay"
    }

    network {
      port "admin" {}
    }

    task "router" {
      driver = var.driver

      dynamic "consul" {
        for_each = var.consul_acl ? [true] : []
        content {}
      }

      config {
        command = var.command
        args    = ["router", "-config", "${NOMAD_TASK_DIR}/router.hcl"]
      }

      template {
        destination   = "local/router.hcl"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = <<-HCL
          admin = ":{{ env "NOMAD_PORT_admin" }}"
          consul {
            address = "${var.consul}"
          }
          ${var.services}
          ${var.settings}
        HCL
      }

      resources {
        cpu    = 200
        memory = 256
      }

      service {
        name     = var.name
        port     = "admin"
        provider = "consul"
        check {
          type     = "http"
          path     = "/health"
          interval = "5s"
          timeout  = "1s"
        }
      }
    }
  }
}
