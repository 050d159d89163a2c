# Prometheus with the scrape configuration for all of Aliquot.
#
# Needs:  Consul; Nomad agents with  telemetry { prometheus_metrics = true
#         publish_allocation_metrics = true }  that are registered in Consul as nomad-client
#         (Nomad's default); the docker or aliquot driver; a Prometheus with Consul service
#         discovery, such as the official image but not Debian's package.
# Does:   scrapes the gateways (at the admin address in their Consul meta), the routers, the
#         Nomad clients and, on the clients' hosts, the device plugins, whose metrics have
#         GPU memory and usage per task. jobs/grafana-dashboard.json is a dashboard for these
#         metrics.
# Run:    nomad job run jobs/prometheus.nomad.hcl

variable "image" {
  description = "Image of Prometheus."
  type        = string
  default     = "prom/prometheus:v3.5.0"
}

variable "driver" {
  description = "Task driver that runs the image: aliquot or docker."
  type        = string
  default     = "aliquot"
}

variable "consul" {
  description = "Consul's HTTP address as seen from the job's node."
  type        = string
  default     = "127.0.0.1:8500"
}

variable "nomad_service" {
  description = "Name of the Nomad clients' service in Consul."
  type        = string
  default     = "nomad-client"
}

variable "device_ports" {
  description = "Ports of the device plugins' metrics_address. Prometheus scrapes all of them on all nodes. Use different ports for NVIDIA's and AMD's plugin only if a node has both."
  type        = list(number)
  default     = [9402]
}

variable "retention" {
  description = "How long Prometheus keeps samples."
  type        = string
  default     = "15d"
}

job "prometheus" {
  type = "service"

  group "prometheus" {
    network {
      port "http" {}
    }

    ephemeral_disk {
      size    = 2000
      migrate = true
      sticky  = true
    }

    task "prometheus" {
      driver = var.driver

      config {
        image              = var.image
        image_pull_timeout = "60m"
        network_mode       = "host"
        ports              = ["http"]
        args = [
          "--config.file=/local/prometheus.yml",
          "--storage.tsdb.path=/alloc/data",
          "--storage.tsdb.retention.time=${var.retention}",
          "--web.listen-address=:${NOMAD_PORT_http}",
        ]
      }

      template {
        destination = "local/prometheus.yml"
        change_mode = "restart"
        data        = <<-YAML
          global:
            scrape_interval: 5s
          scrape_configs:
            - job_name: aliquot-gateway
              consul_sd_configs:
                - server: ${var.consul}
                  services: [aliquot-gateway]
              relabel_configs:
                # The service's address is the public one; its meta has the admin listener's.
                - source_labels: [__meta_consul_service_metadata_admin]
                  regex: (.+)
                  target_label: __address__
                - source_labels: [__meta_consul_node]
                  target_label: node
            - job_name: aliquot-router
              consul_sd_configs:
                - server: ${var.consul}
                  services: [aliquot-router]
              relabel_configs:
                - source_labels: [__meta_consul_node]
                  target_label: node
            # The device plugins run on the Nomad clients.
            %{for port in var.device_ports}
            - job_name: aliquot-devices-${port}
              consul_sd_configs:
                - server: ${var.consul}
                  services: [${var.nomad_service}]
                  tags: [http]
              relabel_configs:
                - source_labels: [__meta_consul_address]
                  regex: (.+)
                  replacement: $${1}:${port}
                  target_label: __address__
                - source_labels: [__meta_consul_node]
                  target_label: node
                - source_labels: [__meta_consul_node]
                  replacement: aliquot-devices
                  target_label: job
            %{endfor}
            - job_name: nomad-client
              metrics_path: /v1/metrics
              params:
                format: [prometheus]
              consul_sd_configs:
                - server: ${var.consul}
                  services: [${var.nomad_service}]
                  tags: [http]
              relabel_configs:
                - source_labels: [__meta_consul_node]
                  target_label: node
        YAML
      }

      resources {
        cpu    = 500
        memory = 512
      }

      service {
        name     = "prometheus"
        port     = "http"
        provider = "consul"
        check {
          type     = "http"
          path     = "/-/ready"
          interval = "10s"
          timeout  = "2s"
        }
      }
    }
  }
}
