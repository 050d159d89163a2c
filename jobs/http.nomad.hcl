# Any HTTP model server, one image name for all hardware.
#
# Needs:  the aliquot driver and a device plugin on the nodes; Consul; an image that
#         is published under three tags, <image>:nvidia, <image>:amd and <image>:cpu.
# Does:   asks for slices of a GPU of either vendor; the driver appends the tag of the
#         hardware that was granted. The server must listen on the port that
#         NOMAD_PORT_http names and answer GET /health with 200 when it is ready.
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
  description = "Slices per replica, of slices_total."
  type        = number
  default     = 2
}

variable "slices_total" {
  description = "Slices that the nodes' plugins cut a GPU into."
  type        = number
  default     = 20
}

variable "concurrency" {
  description = "Requests that one replica serves at the same time."
  type        = number
  default     = 4
}

variable "count" {
  type    = number
  default = 1
}

variable "max_count" {
  description = "Most replicas that scaling may reach."
  type        = number
  default     = 8
}

variable "cpu" {
  type    = number
  default = 500
}

variable "memory" {
  description = "MiB of main memory."
  type        = number
  default     = 512
}

job "http" {
  name = var.service
  type = "service"

  group "server" {
    count = var.count

    scaling {
      enabled = true
      min     = 0
      max     = var.max_count
    }

    update {
      max_parallel = 0
    }

    network {
      port "http" {}
    }

    task "server" {
      driver       = "aliquot"
      kill_timeout = "30s"

      config {
        image                 = var.image
        image_tag_by_hardware = true
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
