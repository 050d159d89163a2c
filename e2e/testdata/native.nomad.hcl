# A service of replicas behind a gateway. What serves is the admin listener of another
# gateway: it needs nothing of the GPU that it has.
variable "command" {}

variable "count" {
  type    = number
  default = 2
}

variable "slices" {
  type    = number
  default = 10
}

job "native" {
  meta {
    aliquot_defrag = "true"
  }
  update {
    min_healthy_time = "1s"
    health_check     = "task_states"
  }
  group "server" {
    count = var.count
    # What a drained node waits for before the next replica moves.
    migrate {
      min_healthy_time = "1s"
      health_check     = "task_states"
    }
    network {
      port "http" {}
    }
    task "server" {
      driver         = "raw_exec"
      shutdown_delay = "3s"
      config {
        command = var.command
        args    = ["gateway", "-config", "local/gateway.hcl"]
      }
      template {
        destination = "local/gateway.hcl"
        data        = <<-HCL
          listen {
            address = "127.0.0.1:0"
          }
          admin {
            address = ":{{ env "NOMAD_PORT_http" }}"
          }
          service "none" {
            replica {
              address = "127.0.0.1:1"
            }
          }
        HCL
      }
      service {
        name     = "native"
        port     = "http"
        provider = "nomad"
        tags     = ["concurrency=4"]
      }
      resources {
        cpu    = 10
        memory = 64
        device "nvidia/gpu" {
          count = var.slices
        }
      }
    }
  }
}
