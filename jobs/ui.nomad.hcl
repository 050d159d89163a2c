# The web page of the cluster: nodes and slices, services and queues, scaling, events.
#
# Needs:  the aliquot program on the nodes (variable "command"). With Nomad ACLs a policy
#         for the job's workload identity, jobs/ui-nomad-policy.hcl; with Consul ACLs a role
#         for it with jobs/ui-consul-policy.hcl, and consul_acl = true.
# Does:   serves one page on one port; everything that it needs is in the program. It
#         reads Nomad, Consul and the gateways' admin listeners, and changes nothing.
#         With Nomad ACLs, users sign in with their own Nomad token; see docs/ui.md.
#         Without ACLs, everyone who reaches the port sees the page.
# Run:    nomad job run jobs/ui.nomad.hcl
#         nomad job run -var nomad_ui=http://nomad.example.com:4646 jobs/ui.nomad.hcl

variable "name" {
  description = "Name of the job, and of the service in Consul."
  type        = string
  default     = "aliquot-ui"
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

variable "port" {
  description = "Port that browsers call; 0 lets Nomad choose one."
  type        = number
  default     = 8686
}

variable "nomad_ui" {
  description = "Address of Nomad's web UI as seen from browsers, for links to jobs and allocations; empty for no links."
  type        = string
  default     = ""
}

variable "args" {
  description = "Further arguments of aliquot ui, such as [\"-cert\", \"…\", \"-key\", \"…\"]."
  type        = list(string)
  default     = []
}

job "ui" {
  name = var.name
  type = "service"

  group "ui" {
    restart {
      attempts = 10
      interval = "5m"
      delay    = "1s"
      mode     = "delay"
    }

    network {
      port "http" {
        static = var.port
      }
    }

    task "ui" {
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
        args    = concat(["ui", "-address", ":${NOMAD_PORT_http}", "-nomad-ui", var.nomad_ui], var.args)
      }

      resources {
        cpu    = 200
        memory = 256
      }

      service {
        name     = var.name
        port     = "http"
        provider = "consul"
        check {
          type     = "http"
          path     = "/v1/ready"
          interval = "5s"
          timeout  = "1s"
        }
      }
    }
  }
}
