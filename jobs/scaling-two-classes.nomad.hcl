# A model service that scales with its queue, on two kinds of hardware at the least cost.
#
# Needs:  what jobs/scaling-one-class.nomad.hcl needs, on nodes of both classes.
# Does:   has one group with its own scaling policy for each class. All policies list the same
#         classes, so all of them come to the same plan: the counts that serve the whole load
#         at the least cost. The plan uses the speed that the gateways measured for each
#         class. With an objective in the variable strategy, the plan leaves out a class that
#         is not in the hardware table until it has been benchmarked or has served. To let it
#         serve, first submit the job with only that class in the variable classes; see
#         docs/scaling.md.
# Run:    nomad job run -var image=registry.example.com/app jobs/scaling-two-classes.nomad.hcl

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

variable "classes" {
  description = "Hardware classes. slots: requests that one replica serves at the same time; cost: cost of one replica, in any unit; max: maximum number of replicas, for which there must be devices."
  type = map(object({
    slices = number
    slots  = number
    cost   = number
    max    = number
  }))
  default = {
    h100 = { slices = 5, slots = 8, cost = 8, max = 4 }
    t4   = { slices = 5, slots = 2, cost = 1, max = 8 }
  }
}

variable "slices_total" {
  description = "Number of slices into which the nodes' device plugins divide a GPU."
  type        = number
  default     = 20
}

variable "speeds" {
  description = "Speed of one slot of each class relative to the other classes, until the gateways have measured it, such as { h100 = 1, t4 = 0.1 }. The default of a class is 1."
  type        = map(number)
  default     = {}
}

variable "weights" {
  description = "Weight of one instance in Consul's DNS SRV answers, for each class: 100 times the weight in docs/hardware.md times the share of a GPU, so that a whole H100 SXM has 100. Whole numbers from 1. docs/router.md says what uses them."
  type        = map(number)
  default     = { h100 = 25, t4 = 2 }
}

variable "kill_timeout" {
  description = "Time that a replica has to finish its requests when it is stopped. The nodes' max_kill_timeout, 30s by default, limits it."
  type        = string
  default     = "5m"
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

locals {
  # "h100 slots=8 cost=8 max=4 speed=1, t4 slots=2 cost=1 max=8 speed=1"
  classes = join(", ", [for name, c in var.classes : "${name} slots=${c.slots} cost=${c.cost} max=${c.max} speed=${lookup(local.speeds, name, 1)}"])

  # The same speeds. A speed of an unknown class is an error, at the index below.
  speeds = { for name, speed in var.speeds : name => speed + 0 * var.classes[name].slots }
}

variable "pack" {
  description = "Packing policy for aliquot job run: fragmentation, best-fit, spread or none; see docs/packing.md. nomad job run ignores it."
  type        = string
  default     = "fragmentation"
}

job "scaling-two-classes" {
  id   = var.service
  name = var.service
  type = "service"

  meta {
    aliquot_pack = var.pack
  }

  dynamic "group" {
    for_each = var.classes
    labels   = [group.key]

    content {
      count = 0

      scaling {
        enabled = true
        min     = 0
        max     = group.value.max

        policy {
          evaluation_interval = var.interval
          # The strategy decides when to wait.
          cooldown = "1s"

          check "demand" {
            source       = "aliquot-apm"
            query        = "load service=${var.service} classes='${local.classes}'"
            query_window = var.query_window

            strategy "aliquot-strategy" {
              class               = group.key
              classes             = local.classes
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
            count = group.value.slices
            constraint {
              attribute = "${device.attr.class}"
              value     = group.key
            }
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
            concurrency          = group.value.slots
            aliquot_route        = "true"
          }
          weights {
            passing = lookup(var.weights, group.key, 1)
            warning = 1
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
}
