# The model cache: each node stores what its model servers read. If another node has it, the node
# reads it from there instead of from the Hugging Face Hub.
#
# Needs:  the aliquot program on the nodes (variable "command"); a Consul agent; the
#         raw_exec driver, because the cache stores files on the host as root. For peers
#         a CA, and on each node a certificate for "aliquot-cache" with its key.
# Does:   runs on every node, including nodes that join later (system). Programs on the
#         node's network read the Hub through the cache if they set
#         HF_ENDPOINT=http://127.0.0.1:7480. The caches fetch each part of a model from the
#         Hub once for the whole cluster. The driver "aliquot" pulls images through them in
#         the same way, and so do S3 clients if s3_port is set. The port "admin" serves
#         /metrics.
# Run:    nomad job run jobs/cache.nomad.hcl

variable "name" {
  description = "Name of the service in Consul through which the caches find each other."
  type        = string
  default     = "aliquot-cache"
}

variable "driver" {
  description = "Task driver that runs the command. It must give access to the host's files."
  type        = string
  default     = "raw_exec"
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
  description = "Whether Nomad gives the task a Consul token for its workload identity. The token must be able to read services and nodes."
  type        = bool
  default     = false
}

variable "tls" {
  description = "Directory on the nodes that contains ca.pem, cert.pem and key.pem of the caches. \"\" for connections without TLS, on a network where you trust every host."
  type        = string
  default     = "/etc/aliquot/cache"
}

variable "prefetch" {
  description = "Lists below aliquot/prefetch in Consul KV, such as [\"all\", \"h100\"], with the models, images and compile caches that the nodes fetch in advance; empty for none. aliquot cache prefetch edits these lists."
  type        = list(string)
  default     = []
}

variable "settings" {
  description = "Further settings of the configuration, such as capacity = \"2TiB\"; see docs/configuration.md."
  type        = string
  default     = ""
}

variable "hf_port" {
  description = "Port on the loopback address that serves the Hugging Face Hub's protocol."
  type        = number
  default     = 7480
}

variable "s3_port" {
  description = "Port on the loopback address that serves the S3 protocol, such as 7483; 0 for none."
  type        = number
  default     = 0
}

variable "oci_port" {
  description = "Port on the loopback address through which the container engine pulls images; 0 for none."
  type        = number
  default     = 7484
}

variable "s3_credentials" {
  description = "Path of a Nomad variable with the access_key and secret_key of S3; \"\" for none. The job may read nomad/jobs/cache. The task gets the keys as the file s3 in its secrets directory: set credentials_file = \"{{ env `NOMAD_SECRETS_DIR` }}/s3\" in the s3 block of settings."
  type        = string
  default     = ""
}

variable "s3_server_credentials" {
  description = "The same for settings with several s3 blocks: paths of Nomad variables by the labels of the blocks, such as {\"west\" = \"nomad/jobs/cache/west\"}. With ACLs, the job reads such a path only with a policy: nomad acl policy apply -job cache. The keys of s3 \"west\" are in the file s3-west: credentials_file = \"{{ env `NOMAD_SECRETS_DIR` }}/s3-west\"."
  type        = map(string)
  default     = {}
}

variable "memory" {
  description = "Memory of the task, in MiB."
  type        = number
  default     = 1024
}

job "cache" {
  type = "system"

  group "cache" {
    restart {
      attempts = 10
      interval = "5m"
      delay    = "2s"
      mode     = "delay"
    }

    network {
      port "peer" {}
      port "admin" {}
      port "hf" {
        static = var.hf_port
      }
      dynamic "port" {
        for_each = var.s3_port == 0 ? [] : [var.s3_port]
        labels   = ["s3"]
        content {
          static = port.value
        }
      }
      dynamic "port" {
        for_each = var.oci_port == 0 ? [] : [var.oci_port]
        labels   = ["oci"]
        content {
          static = port.value
        }
      }
    }

    task "cache" {
      driver = var.driver

      dynamic "consul" {
        for_each = var.consul_acl ? [true] : []
        content {}
      }

      config {
        command = var.command
        args    = ["cache", "-config", "${NOMAD_TASK_DIR}/cache.hcl"]
      }

      template {
        destination = "local/cache.hcl"
        data        = <<-HCL
          hf_listen = "127.0.0.1:${var.hf_port}"
          ${var.s3_port == 0 ? "" : "s3_listen = \"127.0.0.1:${var.s3_port}\""}
          ${var.oci_port == 0 ? "" : "oci_listen = \"127.0.0.1:${var.oci_port}\""}
          admin     = ":{{ env "NOMAD_PORT_admin" }}"
          consul {
            address = "${var.consul}"
          }
          peer {
            listen    = ":{{ env "NOMAD_PORT_peer" }}"
            advertise = "{{ env "NOMAD_ADDR_peer" }}"
            service   = "${var.name}"
            register  = false
            ${var.tls == "" ? "insecure = true" : "ca_file = \"${var.tls}/ca.pem\"\n            cert_file = \"${var.tls}/cert.pem\"\n            key_file = \"${var.tls}/key.pem\""}
          }
          ${length(var.prefetch) == 0 ? "" : "prefetch {\n            key    = \"aliquot/prefetch\"\n            groups = ${jsonencode(var.prefetch)}\n          }"}
          ${var.settings}
        HCL
      }

      dynamic "template" {
        for_each = merge(
          var.s3_credentials == "" ? {} : { "s3" = var.s3_credentials },
          { for label, path in var.s3_server_credentials : "s3-${label}" => path },
        )
        content {
          destination = "secrets/${template.key}"
          perms       = "600"
          change_mode = "noop" # the cache notices the change
          data        = <<-INI
            [default]
            {{ with nomadVar "${template.value}" }}
            aws_access_key_id = {{ .access_key }}
            aws_secret_access_key = {{ .secret_key }}
            {{ end }}
          INI
        }
      }

      resources {
        cpu    = 500
        memory = var.memory
      }

      service {
        name     = var.name
        port     = "peer"
        provider = "consul"
        check {
          type     = "tcp"
          interval = "2s"
          timeout  = "1s"
        }
      }
    }
  }
}
