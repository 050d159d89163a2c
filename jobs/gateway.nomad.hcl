# The gateway: one queue per model service, the fastest free slot first.
#
# Needs:  the aliquot program on the nodes (variable "command"); Consul. With Nomad ACLs
#         a policy for the job's workload identity, jobs/gateway-nomad-policy.hcl; with
#         Consul ACLs a role for it with jobs/gateway-consul-policy.hcl, and
#         consul_acl = true.
# Does:   serves the services of variable "services" on one port, starts them from zero
#         replicas when a request arrives, registers as aliquot-gateway with the address of
#         its admin listener in its meta, and finishes requests in flight before it stops.
#         Run one on each node that clients can reach. Several gateways ("count") share one
#         queue per service; docs/gateways.md explains what happens when one of them is lost.
#
# Clients can find several gateways in one of these ways. In all of them a draining gateway gets
# no new clients, because it has left Consul or answers 503 at /v1/ready:
#
#   Consul DNS   aliquot-gateway.service.consul, port 8080: the addresses of the gateways
#                with passing checks. With port = 0, the SRV records of the same name have
#                the ports. Clients should look the name up every few seconds, and try the
#                next address when one refuses the connection.
#   anycast      Each node announces one address (BIRD, FRR) while
#                curl -sf http://NODE:ADMIN-PORT/v1/ready succeeds.
#   HAProxy      Any gateway serves any request, so no stickiness is needed. HAProxy queries
#                Consul's DNS once a second, which is well within drain_delay. It sends a
#                request again only if no connection could be opened. haproxy.cfg:
#
#     resolvers consul
#       nameserver dns 127.0.0.1:8600
#       accepted_payload_size 8192
#     defaults
#       mode http
#       timeout connect 2s
#       timeout client 1h
#       timeout server 1h
#       retries 3
#       option redispatch 1
#     frontend models
#       bind :8080
#       default_backend gateways
#     backend gateways
#       balance leastconn
#       server-template gw 5 _aliquot-gateway._tcp.service.consul resolvers consul resolve-opts allow-dup-ip init-addr none check
#
# Run:    nomad job run jobs/gateway.nomad.hcl
#         nomad job run -var count=3 jobs/gateway.nomad.hcl

variable "name" {
  description = "Name of the job, and of the service in Consul."
  type        = string
  default     = "aliquot-gateway"
}

variable "services" {
  description = "Service blocks of the configuration, see docs/configuration.md."
  type        = string
  default     = <<-HCL
    service "app" {
      consul {}
      wake {
        target {
          job   = "app"
          group = "server"
          cost  = 1
        }
      }
    }
  HCL
}

variable "settings" {
  description = "Further blocks of the configuration, such as tenants."
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

variable "port" {
  description = "Port that clients call; 0 lets Nomad choose one."
  type        = number
  default     = 8080
}

variable "count" {
  description = "Number of gateways. Two or more share their queues. With a fixed port, each needs a node for itself."
  type        = number
  default     = 1
}

variable "peers_tls" {
  description = "How gateways authenticate each other: connect (certificates of Consul's mesh), files (set them in peers_settings) or off (only on a network that nobody else can reach)."
  type        = string
  default     = "connect"
}

variable "peers_settings" {
  description = "Further keys of the peers block: cert_file, key_file and ca_file."
  type        = string
  default     = ""
}

variable "drain_delay" {
  description = "How long a gateway continues to accept requests after it has left Consul."
  type        = string
  default     = "5s"
}

job "gateway" {
  name = var.name
  type = "service"

  group "gateway" {
    count = var.count

    # One after the other, so that the others can take over its clients and services.
    update {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "5s"
      healthy_deadline = "2m"
    }

    # While the only gateway of a node is down, its clients are not served. Restart it at once,
    # and do not give up after Nomad's default of two restarts.
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
      port "admin" {}
      port "peers" {}
    }

    task "gateway" {
      driver = var.driver
      # Longer than the drain below. The node's max_kill_timeout must allow it.
      kill_timeout = "60s"

      # The gateway scales through the task's own socket of Nomad, with the job's workload
      # identity.
      identity {
        file        = true
        change_mode = "noop"
      }

      dynamic "consul" {
        for_each = var.consul_acl ? [true] : []
        content {}
      }

      config {
        command = var.command
        args    = ["gateway", "-config", "${NOMAD_TASK_DIR}/gateway.hcl"]
      }

      template {
        destination = "local/gateway.hcl"
        data        = <<-HCL
          listen {
            address = ":{{ env "NOMAD_PORT_http" }}"
          }
          admin {
            address = ":{{ env "NOMAD_PORT_admin" }}"
          }
          drain {
            delay   = "${var.drain_delay}"
            timeout = "45s"
          }
          consul {
            address = "${var.consul}"
            service = "${var.name}"
          }
          %{if var.count > 1~}
          peers {
            address   = ":{{ env "NOMAD_PORT_peers" }}"
            advertise = "{{ env "NOMAD_ADDR_peers" }}"
            tls       = "${var.peers_tls}"
            ${var.peers_settings}
          }
          %{endif~}
          nomad {
            address    = "unix://{{ env "NOMAD_SECRETS_DIR" }}/api.sock"
            token_file = "{{ env "NOMAD_SECRETS_DIR" }}/nomad_token"
          }
          ${var.services}
          ${var.settings}
        HCL
      }

      resources {
        cpu    = 500
        memory = 256
      }

      service {
        name     = var.name
        port     = "http"
        provider = "consul"
        meta {
          admin = "${NOMAD_ADDR_admin}"
          peers = "${NOMAD_ADDR_peers}"
        }
        check {
          type     = "http"
          path     = "/v1/ready"
          port     = "admin"
          interval = "2s"
          timeout  = "1s"
        }
      }
    }
  }
}
