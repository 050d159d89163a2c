# Two model servers that share one GPU unequally.
#
# Needs:  the aliquot driver and a device plugin that cuts GPUs into slices; Consul; an
#         image that is published under the tags nvidia, amd and cpu, listens on port
#         8000 and answers GET /health with 200 when it is ready.
# Does:   group "small" requests 6 slices and group "large" 10. On a GPU of 20 slices that is
#         30% and 50% of its compute and memory. The affinity fills GPU 0 first, so both run
#         on one GPU while it has room. The grant of each task is in Consul, in the meta of
#         its service.
# Run:    nomad job run -var image=registry.example.com/app jobs/slices.nomad.hcl

variable "name" {
  description = "Name of the job, and of the service in Consul."
  type        = string
  default     = "slices"
}

variable "image" {
  description = "Image without a tag."
  type        = string
}

variable "args" {
  description = "Arguments of the image's program."
  type        = list(string)
  default     = []
}

variable "small" {
  description = "Slices of the group small."
  type        = number
  default     = 6
}

variable "large" {
  description = "Slices of the group large."
  type        = number
  default     = 10
}

variable "slices_total" {
  description = "Number of slices into which the nodes' device plugins divide a GPU."
  type        = number
  default     = 20
}

variable "gpus" {
  description = "Regular expression for the names of suitable device groups, such as ^h100-."
  type        = string
  default     = "."
}

variable "require_attachment" {
  description = "Whether the driver fails a task that is not a client of its GPU's MPS daemon 30 s after its start."
  type        = bool
  default     = true
}

variable "memory" {
  description = "MiB of main memory per task."
  type        = number
  default     = 128
}

locals {
  groups = {
    small = var.small
    large = var.large
  }
}

variable "pack" {
  description = "Packing policy for aliquot job run: fragmentation, best-fit, spread or none; see docs/packing.md. nomad job run ignores it."
  type        = string
  default     = "fragmentation"
}

job "slices" {
  id   = var.name
  name = var.name
  type = "service"

  meta {
    aliquot_pack = var.pack
  }

  dynamic "group" {
    for_each = local.groups
    labels   = [group.key]

    content {
      network {
        port "http" {
          to = 8000
        }
      }

      task "server" {
        driver = "aliquot"

        config {
          image                 = var.image
          image_tag_by_hardware = true
          image_pull_timeout    = "60m"
          require_attachment    = var.require_attachment
          args                  = var.args
          ports                 = ["http"]
        }

        resources {
          cpu    = 100
          memory = var.memory

          device "gpu" {
            count = group.value

            constraint {
              attribute = "${device.model}"
              operator  = "regexp"
              value     = var.gpus
            }

            constraint {
              attribute = "${device.attr.slices}"
              value     = var.slices_total
            }

            affinity {
              attribute = "${device.attr.index}"
              operator  = "<"
              value     = "1"
              weight    = 50
            }
          }
        }

        # The grant is visible to a service of the task, but not to a service of the group.
        service {
          name     = var.name
          port     = "http"
          provider = "consul"
          tags     = [group.key]

          meta {
            gpu_class            = "${ALIQUOT_GPU_CLASS}"
            aliquot_slices       = "${ALIQUOT_SLICES}"
            aliquot_slices_total = "${ALIQUOT_SLICES_TOTAL}"
            aliquot_weight       = "${ALIQUOT_GPU_WEIGHT}"
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
}
