# Measures replicas of services, and reports what has changed since the last run.
#
# Needs:  the aliquot program on the nodes (variable "command"); Consul; a service whose
#         replicas register their hardware class, such as that of jobs/vllm.nomad.hcl. With
#         Nomad ACLs a policy for the job's workload identity, jobs/bench-nomad-policy.hcl;
#         with Consul ACLs a role for it with jobs/bench-consul-policy.hcl, and
#         consul_acl = true.
# Does:   runs aliquot bench -save against one replica of a service when it is dispatched, or
#         at the times of var.cron. It puts full load on that replica. The gateway, the router
#         and the autoscaler start with the saved profile; see docs/profiles.md.
#         To measure: nomad job dispatch -meta service=chat -meta class=l4 aliquot-bench
# Run:    nomad job run jobs/bench.nomad.hcl

variable "name" {
  description = "Name of the job."
  type        = string
  default     = "aliquot-bench"
}

variable "cron" {
  description = "When the job measures, in the syntax of Nomad's periodic block, such as 0 4 * * 0. If empty, it measures when it is dispatched."
  type        = string
  default     = ""
}

variable "service" {
  description = "Name of the service in Consul. Required with cron; a dispatch sets it in its meta."
  type        = string
  default     = ""
}

variable "class" {
  description = "Hardware class of the replica to measure; empty if all replicas have the same. A dispatch may set it in its meta."
  type        = string
  default     = ""
}

variable "slices" {
  description = "The replica's share of a GPU, such as 10of20; empty if all replicas have the same. A dispatch may set it in its meta."
  type        = string
  default     = ""
}

variable "ttft" {
  description = "Objective for the time to the first token; 0s for none. A dispatch may set it in its meta."
  type        = string
  default     = "2s"
}

variable "tpot" {
  description = "Objective for the time between two tokens; 0s for none. A dispatch may set it in its meta."
  type        = string
  default     = "100ms"
}

variable "time" {
  description = "Longest duration of a measurement."
  type        = string
  default     = "10m"
}

variable "driver" {
  description = "Task driver that runs the command: exec or raw_exec."
  type        = string
  default     = "exec"
}

variable "command" {
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
  description = "Whether Nomad gives the task a Consul token for its workload identity."
  type        = bool
  default     = false
}

job "bench" {
  id   = var.name
  name = var.name
  type = "batch"

  dynamic "parameterized" {
    for_each = var.cron == "" ? [true] : []
    content {
      payload       = "forbidden"
      meta_required = ["service"]
      meta_optional = ["class", "slices", "ttft", "tpot"]
    }
  }

  dynamic "periodic" {
    for_each = var.cron == "" ? [] : [var.cron]
    content {
      crons            = [periodic.value]
      prohibit_overlap = true
    }
  }

  # Defaults for the keys that a dispatch does not set.
  meta {
    service = var.service
    class   = var.class
    slices  = var.slices
    ttft    = var.ttft
    tpot    = var.tpot
  }

  group "bench" {
    # A second run would put load on the replica again.
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "measure" {
      driver = var.driver

      # The task reads the replica's image and driver from Nomad through its own socket, with
      # the job's workload identity.
      identity {
        env = true
      }

      dynamic "consul" {
        for_each = var.consul_acl ? [true] : []
        content {}
      }

      env {
        NOMAD_ADDR       = "unix://${NOMAD_SECRETS_DIR}/api.sock"
        CONSUL_HTTP_ADDR = var.consul
      }

      config {
        command = var.command
        args = [
          "bench", "-save", "-service=${NOMAD_META_service}", "-class=${NOMAD_META_class}",
          "-slices=${NOMAD_META_slices}", "-ttft=${NOMAD_META_ttft}", "-tpot=${NOMAD_META_tpot}",
          "-time=${var.time}",
        ]
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
