# A model server in Consul's service mesh, reachable only through its sidecar.
#
# Needs:  the aliquot driver and a device plugin on the nodes; Consul with connect
#         enabled, and the program consul on the nodes' PATH; the CNI plugins
#         (bridge, firewall, host-local, loopback, portmap); an image of Envoy that fits
#         Consul's version, and an image of the server with three tags, <image>:nvidia,
#         <image>:amd and <image>:cpu.
# Does:   requests slices of one class of GPU, and runs Envoy beside the server. Both tasks
#         use the aliquot driver: only one driver can create the network of an allocation,
#         so a sidecar of the docker driver, Nomad's default, would prevent the group from
#         starting. Nomad requires the service of a sidecar at the group, where the grant is
#         not visible. Its meta is therefore fixed in this file: use one job, or one group,
#         for each class.
# Run:    nomad job run -var image=registry.example.com/app jobs/mesh.nomad.hcl

variable "service" {
  description = "Name of the service in Consul, and of the job."
  type        = string
  default     = "mesh"
}

variable "image" {
  description = "Image of the server without a tag. The server must listen on the port in NOMAD_PORT_http."
  type        = string
}

variable "envoy" {
  description = "Image of Envoy. Consul's documentation lists the versions that each Consul supports."
  type        = string
  default     = "docker.io/envoyproxy/envoy:v1.34.4"
}

variable "class" {
  description = "Hardware class of the GPUs, as in the attribute class of their device groups."
  type        = string
  default     = "h100"
}

variable "weight" {
  description = "Speed of one replica relative to a whole H100, which is 1. If empty, the learned rate applies, or the hardware table."
  type        = string
  default     = ""
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
  description = "Replicas."
  type        = number
  default     = 1
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

job "mesh" {
  id   = var.service
  name = var.service
  type = "service"

  meta {
    aliquot_pack = var.pack
  }

  group "server" {
    count = var.count

    network {
      mode = "bridge"
      port "http" {}
    }

    service {
      name     = var.service
      port     = "http"
      provider = "consul"
      meta {
        gpu_class            = var.class
        aliquot_slices       = var.slices
        aliquot_slices_total = var.slices_total
        aliquot_weight       = var.weight
        concurrency          = var.concurrency
        aliquot_route        = "true"
      }
      connect {
        sidecar_service {}
        sidecar_task {
          # Nomad's default is the docker driver; another driver needs the complete config.
          driver = "aliquot"
          config {
            image              = var.envoy
            image_pull_timeout = "60m"
            args               = ["-c", "${NOMAD_SECRETS_DIR}/envoy_bootstrap.json", "-l", "${meta.connect.log_level}", "--concurrency", "${meta.connect.proxy_concurrency}", "--disable-hot-restart"]
          }
        }
      }
    }

    task "server" {
      driver = "aliquot"

      config {
        image                 = var.image
        image_tag_by_hardware = true
        image_pull_timeout    = "60m"
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
          constraint {
            attribute = "${device.attr.class}"
            value     = var.class
          }
        }
      }
    }
  }
}
