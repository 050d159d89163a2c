# Any HTTP model server, one image name for all hardware.
#
# Needs:  the aliquot driver and a device plugin on the nodes; Consul; an image that
#         is published under three tags, <image>:nvidia, <image>:amd and <image>:cpu.
#         To scale: jobs/autoscaler.nomad.hcl, and a service block of the same name in
#         the gateway's configuration. Without them the count does not change.
# Does:   requests slices of a GPU of any vendor; the driver appends the tag of the granted
#         hardware. The server must listen on the port in NOMAD_PORT_http and answer
#         GET /health with 200 when it is ready. The count follows the number of requests
#         that wait or are in service.
# Run:    nomad job run -var image=registry.example.com/app jobs/http.nomad.hcl

variable "service" {
  description = "Name of the service in Consul, and of the job."
  type        = string
  default     = "app"
}

variable "image" {
  description = "Image without a tag."
  type        = string
}

variable "slices" {
  description = "Slices of each replica, out of slices_total."
  type        = number
  default     = 2
}

variable "slices_total" {
  description = "Number of slices into which the nodes' device plugins divide a GPU."
  type        = number
  default     = 20
}

variable "concurrency" {
  description = "Requests that one replica serves at the same time."
  type        = number
  default     = 4
}

variable "count" {
  description = "Replicas at the start."
  type        = number
  default     = 1
}

variable "kill_timeout" {
  description = "Time that a replica has to finish its requests when it is stopped. The nodes' max_kill_timeout, 30s by default, limits it."
  type        = string
  default     = "5m"
}

variable "max_count" {
  description = "Maximum number of replicas."
  type        = number
  default     = 8
}

variable "autoscale" {
  description = "Whether the autoscaler, if it runs, sets the count."
  type        = bool
  default     = true
}

variable "strategy" {
  description = "Further settings of the strategy, such as { standby = \"1\" }; see docs/configuration.md."
  type        = map(string)
  default     = {}

  validation {
    condition     = length([for key in keys(var.strategy) : key if !contains(["utilization", "stable_window", "panic_window", "panic_threshold", "coldstart", "down_delay", "down_factor", "decay", "forecast_window", "forecast_confidence", "zero_grace", "standby", "sleep", "hysteresis", "objective"], key)]) == 0
    error_message = "The variable strategy has an unknown setting. Use utilization, stable_window, panic_window, panic_threshold, coldstart, down_delay, down_factor, decay, forecast_window, forecast_confidence, zero_grace, standby, sleep, hysteresis or objective."
  }
}

variable "query_window" {
  description = "How far back each decision looks at demand: at least the strategy's down_delay and stable_window, at most 1h, which is how long gateways keep it."
  type        = string
  default     = "15m"
}

variable "cpu" {
  description = "MHz of CPU."
  type        = number
  default     = 500
}

variable "memory" {
  description = "MiB of main memory."
  type        = number
  default     = 512
}

variable "pack" {
  description = "Packing policy for aliquot job run: fragmentation, best-fit, spread or none; see docs/packing.md. nomad job run ignores it."
  type        = string
  default     = "fragmentation"
}

job "http" {
  id   = var.service
  name = var.service
  type = "service"

  meta {
    aliquot_pack = var.pack
  }

  group "server" {
    count = var.count

    scaling {
      enabled = var.autoscale
      min     = 0
      max     = var.max_count

      policy {
        evaluation_interval = "1s"
        # The strategy decides when to wait.
        cooldown = "1s"

        check "demand" {
          source       = "aliquot-apm"
          query        = "concurrency service=${var.service}"
          query_window = var.query_window

          strategy "aliquot-strategy" {
            slots               = var.concurrency
            utilization         = lookup(var.strategy, "utilization", "")
            stable_window       = lookup(var.strategy, "stable_window", "")
            panic_window        = lookup(var.strategy, "panic_window", "")
            panic_threshold     = lookup(var.strategy, "panic_threshold", "")
            coldstart           = lookup(var.strategy, "coldstart", "")
            down_delay          = lookup(var.strategy, "down_delay", "")
            down_factor         = lookup(var.strategy, "down_factor", "")
            decay               = lookup(var.strategy, "decay", "")
            forecast_window     = lookup(var.strategy, "forecast_window", "")
            forecast_confidence = lookup(var.strategy, "forecast_confidence", "")
            zero_grace          = lookup(var.strategy, "zero_grace", "")
            standby             = lookup(var.strategy, "standby", "")
            sleep               = lookup(var.strategy, "sleep", "")
            hysteresis          = lookup(var.strategy, "hysteresis", "")
            objective           = lookup(var.strategy, "objective", "")
          }
        }

        target "aliquot-target" {}
      }
    }

    # Nomad refuses to scale a job during a deployment, so this job has no deployments. An update
    # replaces all replicas at once; until they are ready, requests wait in the gateway.
    update {
      max_parallel = 0
    }

    network {
      port "http" {}
    }

    task "server" {
      driver       = "aliquot"
      kill_timeout = var.kill_timeout

      config {
        image                 = var.image
        image_tag_by_hardware = true
        image_pull_timeout    = "60m"
        ready_check           = "http/health"
        network_mode          = "host"
        ports                 = ["http"]
      }

      resources {
        cpu    = var.cpu
        memory = var.memory
        device "gpu" {
          count = var.slices
          constraint {
            attribute = "${device.attr.slices}"
            value     = var.slices_total
          }
        }
      }

      service {
        name     = var.service
        port     = "http"
        provider = "consul"
        meta {
          gpu_class            = "${ALIQUOT_GPU_CLASS}"
          aliquot_slices       = "${ALIQUOT_SLICES}"
          aliquot_slices_total = "${ALIQUOT_SLICES_TOTAL}"
          aliquot_weight       = "${ALIQUOT_GPU_WEIGHT}"
          concurrency          = var.concurrency
          aliquot_route        = "true"
        }
        check {
          type     = "http"
          path     = "/health"
          interval = "2s"
          timeout  = "1s"
        }
      }
    }
  }
}
