# The Nomad Autoscaler with Aliquot's plugins, highly available.
#
# Needs:  nomad-autoscaler 0.5 and the programs aliquot-apm, aliquot-strategy and
#         aliquot-target on the nodes (variables agent and plugin_dir are their paths); the
#         raw_exec driver; Consul. With ACLs a Nomad policy for this job and a Consul token,
#         see docs/scaling.md.
# Does:   runs two agents. One holds the lock and evaluates the scaling policies of all jobs;
#         the other takes over when the lock expires.
# Run:    nomad job run jobs/autoscaler.nomad.hcl

variable "count" {
  description = "Number of agents. One of them decides; the others stand by."
  type        = number
  default     = 2
}

variable "distinct_hosts" {
  description = "Whether the agents run on different nodes, so that one survives the loss of a node."
  type        = bool
  default     = true
}

variable "agent" {
  description = "The nomad-autoscaler: its path on the nodes, or a name in the PATH of the Nomad agent."
  type        = string
  default     = "nomad-autoscaler"
}

variable "plugin_dir" {
  description = "Directory on the nodes that contains the three plugins."
  type        = string
  default     = "/opt/nomad-autoscaler/plugins"
}

variable "consul" {
  description = "Consul's HTTP address as seen from the nodes."
  type        = string
  default     = "127.0.0.1:8500"
}

variable "consul_token_file" {
  description = "File on the nodes that contains a Consul token with the policy jobs/autoscaler-consul-policy.hcl; empty without ACLs."
  type        = string
  default     = ""
}

variable "lock_ttl" {
  description = "Time after which the lock of a dead agent expires."
  type        = string
  default     = "15s"
}

variable "restart_agent_after" {
  description = "Time without an evaluation of a policy after which the agent restarts; 0 for never."
  type        = string
  default     = "2m"
}

variable "namespaces" {
  description = "Nomad namespaces whose jobs the autoscaler scales, or [\"*\"] for all; if empty, the namespace of this job. With ACLs, the job needs the rights of jobs/autoscaler-nomad-policy.hcl in each of them."
  type        = list(string)
  default     = []
}

variable "node_policies" {
  description = "Text of scaling policies for nodes, such as that of jobs/autoscaler-nodes.hcl; empty for none."
  type        = string
  default     = ""
}

variable "node_target" {
  description = "Target plugin of node_policies, such as aws-asg, gce-mig or azure-vmss; empty for none."
  type        = string
  default     = ""
}

variable "node_target_config" {
  description = "Settings of node_target, such as { aws_region = \"eu-central-1\" }."
  type        = map(string)
  default     = {}
}

variable "log_level" {
  description = "Log level of the agents: TRACE, DEBUG, INFO, WARN or ERROR."
  type        = string
  default     = "INFO"
}

job "autoscaler" {
  type = "service"

  group "agent" {
    count = var.count

    constraint {
      distinct_hosts = var.distinct_hosts
    }

    # The plugins end an agent that no longer evaluates its policies or has lost a plugin. Nomad
    # must then always restart it.
    restart {
      attempts = 10
      interval = "5m"
      delay    = "2s"
      mode     = "delay"
    }

    network {
      port "http" {}
    }

    task "agent" {
      driver = "raw_exec"

      # The agent connects to Nomad through the task's own socket, as this job.
      identity {
        env  = true
        file = true
      }

      config {
        command = var.agent
        args    = ["agent", "-config", "${NOMAD_TASK_DIR}/agent.hcl"]
      }

      template {
        destination = "${NOMAD_TASK_DIR}/agent.hcl"
        data        = <<-EOF
          log_level  = "${var.log_level}"
          plugin_dir = "${var.plugin_dir}"

          nomad {
            address = "unix://{{ env "NOMAD_SECRETS_DIR" }}/api.sock"
            %{if length(var.namespaces) > 0~}
            namespace = ${jsonencode(var.namespaces)}
            %{endif~}
          }

          http {
            bind_address = "0.0.0.0"
            bind_port    = {{ env "NOMAD_PORT_http" }}
          }

          high_availability {
            enabled        = true
            lock_namespace = "{{ env "NOMAD_NAMESPACE" }}"
            lock_path      = "nomad-autoscaler/lock"
            lock_ttl       = "${var.lock_ttl}"
            lock_delay     = "1s"
          }

          telemetry {
            prometheus_metrics = true
            disable_hostname   = true
          }

          policy {
            default_evaluation_interval = "5s"
            %{if var.node_policies != ""~}
            dir = "{{ env "NOMAD_TASK_DIR" }}/policies"
            %{endif~}
          }

          apm "aliquot-apm" {
            driver = "aliquot-apm"
            config = {
              consul_address    = "${var.consul}"
              consul_token_file = "${var.consul_token_file}"
            }
          }

          strategy "aliquot-strategy" {
            driver = "aliquot-strategy"
            config = {
              consul_address    = "${var.consul}"
              consul_token_file = "${var.consul_token_file}"
            }
          }

          target "aliquot-target" {
            driver = "aliquot-target"
            config = {
              restart_agent_after = "${var.restart_agent_after}"
            }
          }
          %{if var.node_target != ""~}

          target "${var.node_target}" {
            driver = "${var.node_target}"
            config = ${jsonencode(var.node_target_config)}
          }
          %{endif~}
        EOF
      }

      dynamic "template" {
        for_each = var.node_policies != "" ? [var.node_policies] : []

        content {
          destination = "${NOMAD_TASK_DIR}/policies/nodes.hcl"
          data        = template.value
        }
      }

      resources {
        cpu    = 200
        memory = 256
      }

      service {
        name     = "nomad-autoscaler"
        port     = "http"
        provider = "consul"
        check {
          type     = "http"
          path     = "/v1/health"
          interval = "5s"
          timeout  = "2s"
        }
      }
    }
  }
}
