# Models on NVIDIA Triton Inference Server.
#
# Needs:  the aliquot driver and aliquot-device-nvidia on the nodes; Consul; a host
#         volume, named by var.repository, with a Triton model repository. To scale:
#         jobs/autoscaler.nomad.hcl, and a service block of the same name in the gateway's
#         configuration. Without them the count does not change.
# Does:   runs Triton on slices of a shared NVIDIA GPU, with HTTP and gRPC. The count
#         follows the number of HTTP requests that wait or are in service.
# Run:    nomad job run -var repository=triton-models jobs/triton.nomad.hcl

variable "service" {
  description = "Name of the service in Consul, and of the job."
  type        = string
  default     = "vision"
}

variable "repository" {
  description = "Name of the host volume with the model repository."
  type        = string
  default     = "triton-models"
}

variable "slices" {
  description = "Slices of each replica, out of slices_total."
  type        = number
  default     = 4
}

variable "slices_total" {
  description = "Number of slices into which the nodes' device plugins divide a GPU."
  type        = number
  default     = 20
}

variable "concurrency" {
  description = "Requests that one replica serves at the same time."
  type        = number
  default     = 8
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

variable "image" {
  description = "Image of Triton."
  type        = string
  default     = "nvcr.io/nvidia/tritonserver:25.08-py3"
}

variable "cpu" {
  description = "MHz of CPU."
  type        = number
  default     = 2000
}

variable "memory" {
  description = "MiB of main memory."
  type        = number
  default     = 8192
}

variable "pack" {
  description = "Packing policy for aliquot job run: fragmentation, best-fit, spread or none; see docs/packing.md. nomad job run ignores it."
  type        = string
  default     = "fragmentation"
}

job "triton" {
  id   = var.service
  name = var.service
  type = "service"

  meta {
    aliquot_pack = var.pack
  }

  group "nvidia" {
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
      port "grpc" {}
      port "metrics" {}
    }

    volume "repository" {
      type      = "host"
      source    = var.repository
      read_only = true
    }

    task "server" {
      driver       = "aliquot"
      kill_timeout = var.kill_timeout

      config {
        images {
          cuda = var.image
        }
        image_pull_timeout = "60m"
        ready_check        = "http/v2/health/ready"
        ports              = ["http", "grpc", "metrics"]
        network_mode       = "host"
        entrypoint         = ["tritonserver"]
        args = [
          "--model-repository=/models",
          "--http-port=${NOMAD_PORT_http}",
          "--grpc-port=${NOMAD_PORT_grpc}",
          "--metrics-port=${NOMAD_PORT_metrics}",
        ]
        require_attachment = true
        attachment_timeout = "2m"
      }

      volume_mount {
        volume      = "repository"
        destination = "/models"
        read_only   = true
      }

      resources {
        cpu    = var.cpu
        memory = var.memory
        device "nvidia/gpu" {
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
          path     = "/v2/health/ready"
          interval = "5s"
          timeout  = "2s"
        }
      }
    }
  }
}
