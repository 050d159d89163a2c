# Pulls model server images onto every GPU node before they are needed, so that a
# start from zero replicas does not wait for gigabytes.
#
# Needs:  the aliquot driver on the nodes, with gc { image = false } or a long
#         image_delay in its plugin block: by default an image is removed 3 minutes
#         after its last task; a registry that the nodes reach.
# Does:   runs once on every node that has a GPU (sysbatch): one group per vendor pulls
#         that vendor's image and exits. Submit it again after a change of image.
# Run:    nomad job run -var image_cuda=… -var image_rocm=… jobs/prepull.nomad.hcl

variable "image_cuda" {
  description = "Image for nodes with NVIDIA GPUs."
  type        = string
  default     = "vllm/vllm-openai:v0.28.0"
}

variable "image_rocm" {
  description = "Image for nodes with AMD GPUs."
  type        = string
  default     = "vllm/vllm-openai-rocm:v0.28.0"
}

variable "command" {
  description = "A program of the images that ends at once with success."
  type        = string
  default     = "/bin/true"
}

job "prepull" {
  type = "sysbatch"

  dynamic "group" {
    for_each = {
      nvidia = var.image_cuda
      amd    = var.image_rocm
    }
    labels = [group.key]

    content {
      # The driver names the vendors whose kernel driver the node has; pulling itself
      # takes no GPU.
      constraint {
        attribute = "$${attr.driver.aliquot.gpu.${group.key}}"
        value     = "true"
      }

      task "pull" {
        driver = "aliquot"
        config {
          image      = group.value
          entrypoint = [var.command]
        }
        resources {
          cpu    = 50
          memory = 64
        }
      }
    }
  }
}
