# A language model on vLLM, on NVIDIA and AMD GPUs, as one service.
#
# Needs:  the aliquot driver and a device plugin on the nodes; Consul; access to the
#         model's weights (var.cached_models through jobs/cache.nomad.hcl, Hugging Face,
#         or a host volume named by var.models). To scale: jobs/autoscaler.nomad.hcl, and
#         a service block of the same name in the gateway's configuration, with
#         policy = "tokens" (docs/llm.md). Without them the counts do not change.
# Does:   runs vLLM's OpenAI-compatible server in one group per vendor. Each replica
#         requests var.slices slices of one shared GPU; the driver picks the CUDA or ROCm
#         image by the granted GPU. One plan sets the counts of both groups, from zero
#         upwards, so that they serve waiting and running requests at the least cost.
# Run:    nomad job run -var model=Qwen/Qwen3-4B -var nvidia_count=1 jobs/vllm.nomad.hcl

variable "service" {
  description = "Name of the service in Consul, and of the job."
  type        = string
  default     = "chat"
}

variable "model" {
  description = "Name or path of the model, as in vLLM's command line."
  type        = string
  default     = "Qwen/Qwen3-4B"
}

variable "slices" {
  description = "Slices of each replica, out of slices_total. The model's weights and KV cache must fit into slices/slices_total of the GPU's memory."
  type        = number
  default     = 10
}

variable "slices_total" {
  description = "Number of slices into which the nodes' device plugins divide a GPU."
  type        = number
  default     = 20
}

variable "vendors" {
  description = "Vendors of the cluster's GPUs: nvidia, amd or both. At equal cost, the plan prefers the first."
  type        = list(string)
  default     = ["nvidia", "amd"]

  validation {
    condition     = length(var.vendors) > 0 && length([for v in var.vendors : v if !contains(["nvidia", "amd"], v)]) == 0
    error_message = "The variable vendors must contain nvidia, amd or both."
  }
}

variable "concurrency" {
  description = "Maximum number of requests in the batch of one replica, for vLLM (max-num-seqs) and the gateway. 256 is vLLM's default and the value of our measurements. With a small value, requests wait although the replica has memory for them."
  type        = number
  default     = 256
}

variable "slots" {
  description = "Number of concurrent requests for which scaling plans one replica, at most concurrency. Set it to the number with which a replica meets your objective; small GPUs need a lower one."
  type        = number
  default     = 64
}

variable "affinity" {
  description = "Request headers, separated by commas, such as x-session-id. In the mesh, requests with equal headers go to the same replica. Empty for none. See docs/router.md."
  type        = string
  default     = ""
}

variable "max_model_len" {
  description = "Maximum length of prompt and answer together, in tokens; 0 for the model's default."
  type        = number
  default     = 0
}

variable "kv_tokens" {
  description = "Capacity of one replica's KV cache, in tokens, if the gateways cannot read vLLM's metrics; 0 to use the metrics."
  type        = number
  default     = 0
}

variable "memory_utilization" {
  description = "vLLM's gpu-memory-utilization, as a fraction of the whole GPU's memory; 0 for four fifths of the granted slices."
  type        = number
  default     = 0
}

variable "args" {
  description = "Further arguments of vLLM, such as --max-num-batched-tokens=1024."
  type        = list(string)
  default     = ["--enable-prompt-tokens-details"]
}

variable "nvidia_count" {
  description = "Replicas on NVIDIA GPUs at the start."
  type        = number
  default     = 0
}

variable "amd_count" {
  description = "Replicas on AMD GPUs at the start."
  type        = number
  default     = 0
}

variable "kill_timeout" {
  description = "Time that a replica has to finish its requests when it is stopped. The nodes' max_kill_timeout, 30s by default, limits it."
  type        = string
  default     = "5m"
}

variable "max_count" {
  description = "Maximum number of replicas of each group. Do not set it higher than the GPUs have room for."
  type        = number
  default     = 8
}

variable "autoscale" {
  description = "Whether the autoscaler, if it runs, sets the counts."
  type        = bool
  default     = true
}

variable "cost" {
  description = "Cost of one replica by vendor, in any unit."
  type        = map(number)
  default     = { nvidia = 1, amd = 1 }
}

variable "strategy" {
  description = "Further settings of the strategy, such as { standby = \"1\" }; see docs/configuration.md. With { sleep = \"1\" }, which needs exactly one vendor, vLLM serves endpoints that only the gateway may reach; see docs/llm.md."
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

variable "image_cuda" {
  description = "Image for NVIDIA GPUs. The default needs driver 580; the tag with -cu129 runs on driver 550."
  type        = string
  default     = "vllm/vllm-openai:v0.28.0"
}

variable "image_rocm" {
  description = "Image for AMD GPUs."
  type        = string
  default     = "vllm/vllm-openai-rocm:v0.28.0"
}

variable "cpu" {
  description = "MHz of CPU."
  type        = number
  default     = 4000
}

variable "memory" {
  description = "MiB of main memory."
  type        = number
  default     = 16384
}

variable "cached_models" {
  description = "Models that the node's cache fetches and mounts, such as [\"hf://Qwen/Qwen3-4B@main\"]; needs jobs/cache.nomad.hcl. If empty, vLLM downloads the model itself."
  type        = list(string)
  default     = []
}

variable "compile_cache" {
  description = "Whether the node's cache keeps what vLLM compiles for the next start; see docs/security.md."
  type        = bool
  default     = false
}

variable "models" {
  description = "Name of a host volume with model files, mounted read-only at /models; empty for none."
  type        = string
  default     = ""
}

locals {
  # Sleeping replicas need a block sleep in the service's block of the gateway's configuration,
  # and enough var.memory for a second copy of the model's weights.
  sleeps = lookup(var.strategy, "sleep", "0") != "0"

  # vLLM uses a share of the whole GPU's memory. Since 0.21 it estimates the memory of its CUDA
  # graphs and includes it in that share. A fifth of the grant stays free for errors of the
  # estimate and for the memory of CUDA and HIP contexts.
  memory_part = format("%.3f", var.memory_utilization > 0 ? var.memory_utilization : var.slices / var.slices_total * 0.8)

  counts = {
    nvidia = var.nvidia_count
    amd    = var.amd_count
  }
  # "nvidia slots=64 cost=1 max=8, amd slots=64 cost=1 max=8"
  classes = join(", ", [for v in var.vendors : "${v} slots=${min(var.slots, var.concurrency)} cost=${lookup(var.cost, v, 1)} max=${var.max_count}"])
}

variable "pack" {
  description = "Packing policy for aliquot job run: fragmentation, best-fit, spread or none; see docs/packing.md. nomad job run ignores it."
  type        = string
  default     = "fragmentation"
}

job "vllm" {
  id   = var.service
  name = var.service
  type = "service"

  meta {
    aliquot_pack = var.pack
  }

  dynamic "group" {
    for_each = { for v in var.vendors : v => local.counts[v] }
    labels   = [group.key]

    content {
      count = group.value

      scaling {
        enabled = var.autoscale
        min     = 0
        max     = var.max_count

        policy {
          evaluation_interval = "1s"
          # The strategy decides when to wait.
          cooldown = "1s"

          check "demand" {
            source = "aliquot-apm"
            # Classes are vendors here, but the gateways measure speeds of hardware classes. With
            # only one vendor, any class name works, so var.strategy may have an objective.
            query        = "concurrency service=${var.service}"
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

      # Nomad refuses to scale a job during a deployment, so this job has no deployments. An
      # update replaces all replicas at once; until they are ready, requests wait in the gateway.
      update {
        max_parallel = 0
      }

      network {
        port "http" {}
      }

      # A replica starts sooner on a node that has the model.
      dynamic "affinity" {
        for_each = var.cached_models
        content {
          attribute = "$${attr.unique.cache.models}"
          operator  = "set_contains"
          value     = affinity.value
          weight    = 50
        }
      }

      dynamic "volume" {
        for_each = var.models == "" ? [] : [var.models]
        labels   = ["models"]
        content {
          type      = "host"
          source    = volume.value
          read_only = true
        }
      }

      task "server" {
        driver       = "aliquot"
        kill_timeout = var.kill_timeout

        config {
          images {
            cuda = var.image_cuda
            rocm = var.image_rocm
          }
          image_pull_timeout = "60m"
          models             = var.cached_models
          compile_cache      = var.compile_cache
          ready_check        = "http/health"
          ports              = ["http"]
          entrypoint         = ["vllm", "serve"]
          args = concat([
            var.model,
            "--host", "0.0.0.0",
            "--port", "${NOMAD_PORT_http}",
            "--served-model-name", var.service,
            "--max-num-seqs", var.concurrency,
            "--gpu-memory-utilization", local.memory_part,
          ], var.max_model_len > 0 ? ["--max-model-len", var.max_model_len] : [], local.sleeps ? ["--enable-sleep-mode"] : [], var.args)
          network_mode       = "host"
          require_attachment = group.key == "nvidia"
          # A large model loads for a while before its first CUDA call.
          attachment_timeout = "5m"
        }

        dynamic "volume_mount" {
          for_each = var.models == "" ? [] : [var.models]
          content {
            volume      = "models"
            destination = "/models"
            read_only   = true
          }
        }

        env {
          VLLM_SERVER_DEV_MODE = local.sleeps ? "1" : "0"
        }

        resources {
          cpu    = var.cpu
          memory = var.memory
          dynamic "device" {
            for_each = ["${group.key}/gpu"]
            labels   = [device.value]
            content {
              count = var.slices
              # Without this, a node with unshared GPUs would grant whole GPUs.
              constraint {
                attribute = "$${device.attr.slices}"
                value     = var.slices_total
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
            concurrency          = var.concurrency
            kv_tokens            = var.kv_tokens > 0 ? var.kv_tokens : ""
            max_model_len        = var.max_model_len > 0 ? var.max_model_len : ""
            aliquot_route        = "true"
            aliquot_affinity     = var.affinity
          }
          check {
            type     = "http"
            path     = "/health"
            interval = "5s"
            timeout  = "2s"
          }
        }
      }
    }
  }
}
