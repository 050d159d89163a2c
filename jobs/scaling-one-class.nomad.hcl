# A model service that scales with its queue, on one kind of hardware.
#
# Needs:  what jobs/http.nomad.hcl needs; the gateway with a service block of the same
#         name; the autoscaler of jobs/autoscaler.nomad.hcl.
# Does:   runs as many replicas as the gateways' waiting and running requests need, from 0 to
#         max_count. docs/configuration.md lists all settings; `aliquot simulate scale` tries
#         settings on a recorded trace.
# Run:    nomad job run -var image=registry.example.com/app jobs/scaling-one-class.nomad.hcl

variable "service" {
  description = "Name of the service in Consul and in the gateway, and of the job."
  type        = string
  default     = "app"
}

variable "image" {
  description = "Image without a tag; published under the tags nvidia, amd and cpu."
  type        = string
}

variable "args" {
  description = "Arguments of the image's program."
  type        = list(string)
  default     = []
}

variable "class" {
  description = "Hardware class of the replicas, such as h100; empty for any."
  type        = string
  default     = ""
}

variable "slices" {
  description = "Slices of each replica, out of slices_total."
  type        = number
  default     = 5
}

variable "slices_total" {
  description = "Number of slices into which the nodes' device plugins divide a GPU."
  type        = number
  default     = 20
}

variable "slots" {
  description = "Requests that one replica serves at the same time."
  type        = number
  default     = 4
}

variable "count" {
  description = "Number of replicas until the autoscaler's first decision."
  type        = number
  default     = 0
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

variable "interval" {
  description = "How often the autoscaler evaluates the demand."
  type        = string
  default     = "1s"
}

variable "deployments" {
  description = "Number of replicas that a deployment starts at a time; 0 for no deployments. During a deployment Nomad refuses to scale the job."
  type        = number
  default     = 0
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

job "scaling-one-class" {
  id   = var.service
  name = var.service
  type = "service"

  meta {
    aliquot_pack = var.pack
  }

  group "server" {
    count = var.count

    scaling {
      enabled = true
      min     = 0
      max     = var.max_count

      policy {
        evaluation_interval = var.interval
        # The strategy decides when to wait.
        cooldown = "1s"

        check "demand" {
          source       = "aliquot-apm"
          query        = "concurrency service=${var.service}"
          query_window = var.query_window

          strategy "aliquot-strategy" {
            slots               = var.slots
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

    update {
      max_parallel = var.deployments
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
        args                  = var.args
      }

      resources {
        cpu    = 100
        memory = var.memory
        device "gpu" {
          count = var.slices
          constraint {
            attribute = "${device.attr.slices}"
            value     = var.slices_total
          }
          dynamic "constraint" {
            for_each = var.class == "" ? [] : [var.class]
            content {
              attribute = "$${device.attr.class}"
              value     = constraint.value
            }
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
          concurrency          = var.slots
          aliquot_route        = "true"
        }
        check {
          type     = "http"
          path     = "/health"
          interval = "1s"
          timeout  = "1s"
        }
      }
    }
  }
}
