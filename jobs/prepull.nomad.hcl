# Pulls model server images onto every GPU node before they are needed, so that a
# start from zero replicas does not wait for gigabytes.
#
# Needs:  the aliquot driver on the nodes; a registry that they can reach; the aliquot
#         program (variable "program") and, unless at_once is 0, a Consul agent on the
#         nodes. With Consul ACLs a role for the job's workload identity with
#         jobs/prepull-consul-policy.hcl, and consul_acl = true.
# Does:   runs on every node with GPUs, including nodes that join later (system). A task for
#         each image of the node's vendor and class pulls the image and then sleeps. The image
#         is in use while the task runs, so garbage collection does not remove it. At most
#         at_once nodes pull at the same time. Run the job again after you change the lists;
#         garbage collection may then remove images that are no longer listed.
# Run:    nomad job run -var 'images={"nvidia"=["vllm/vllm-openai:v0.28.0"]}' jobs/prepull.nomad.hcl

variable "images" {
  description = "Images by vendor, such as \"nvidia\", or by vendor and class, such as \"nvidia/h100\". The images of a class go to the nodes with that class in client { meta { gpu_class } }, in addition to the vendor's images."
  type        = map(list(string))
  default = {
    nvidia = ["vllm/vllm-openai:v0.28.0"]
    amd    = ["vllm/vllm-openai-rocm:v0.28.0"]
  }

  validation {
    condition     = length([for key in keys(var.images) : key if !contains(["nvidia", "amd", "intel"], split("/", key)[0]) || length(split("/", key)) > 2]) == 0
    error_message = "Each key of images must be a vendor (nvidia, amd or intel), or a vendor and a class such as nvidia/h100."
  }
}

variable "command" {
  description = "A program in the images that does nothing until it is stopped, with its arguments."
  type        = list(string)
  default     = ["sleep", "infinity"]
}

variable "pull_timeout" {
  description = "Longest duration of one pull. The docker driver's default is 5m."
  type        = string
  default     = "60m"
}

variable "at_once" {
  description = "Maximum number of nodes that pull at the same time. 0 for no limit, which needs no Consul."
  type        = number
  default     = 4
}

variable "driver" {
  description = "Task driver that runs the program: exec or raw_exec."
  type        = string
  default     = "exec"
}

variable "program" {
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
  description = "Whether Nomad gives the tasks a Consul token for their workload identity."
  type        = bool
  default     = false
}

job "prepull" {
  type = "system"

  dynamic "group" {
    for_each = { for key, list in var.images : key => list if length(list) > 0 }
    labels   = [replace(group.key, "/", "-")]

    content {
      # The driver reports the vendors whose kernel drivers the node has. A pull needs no GPU.
      constraint {
        attribute = "$${attr.driver.aliquot.gpu.${split("/", group.key)[0]}}"
        value     = "true"
      }

      dynamic "constraint" {
        for_each = slice(split("/", group.key), 1, length(split("/", group.key)))
        content {
          attribute = "$${meta.gpu_class}"
          value     = constraint.value
        }
      }

      # If the registry does not answer, try the pull again.
      restart {
        attempts = 10
        interval = "30m"
        delay    = "30s"
        mode     = "delay"
      }

      # This task waits for the node's turn and exits. Then the pulls begin …
      dynamic "task" {
        for_each = var.at_once > 0 ? ["turn"] : []
        labels   = [task.value]
        content {
          driver = var.driver
          lifecycle {
            hook = "prestart"
          }
          dynamic "consul" {
            for_each = var.consul_acl ? [true] : []
            content {}
          }
          config {
            command = var.program
            args    = ["turn", "-most=${var.at_once}", "-lapse=${var.pull_timeout}"]
          }
          env {
            CONSUL_HTTP_ADDR = var.consul
          }
          resources {
            cpu    = 50
            memory = 64
          }
        }
      }

      # … and this one gives the turn back when all containers are running.
      dynamic "task" {
        for_each = var.at_once > 0 ? ["turn-back"] : []
        labels   = [task.value]
        content {
          driver = var.driver
          lifecycle {
            hook = "poststart"
          }
          dynamic "consul" {
            for_each = var.consul_acl ? [true] : []
            content {}
          }
          config {
            command = var.program
            args    = ["turn", "-release"]
          }
          env {
            CONSUL_HTTP_ADDR = var.consul
          }
          resources {
            cpu    = 50
            memory = 64
          }
        }
      }

      dynamic "task" {
        for_each = { for n, image in group.value : "pull-${n}" => image }
        labels   = [task.key]
        content {
          driver = "aliquot"
          config {
            image              = task.value
            image_pull_timeout = var.pull_timeout
            entrypoint         = var.command
          }
          # The container only sleeps, so it has nothing to finish when it stops.
          kill_timeout = "1s"
          resources {
            cpu    = 20
            memory = 32
          }
        }
      }
    }
  }
}
