# Consul policy for the gateway: find replicas and other gateways, register itself, publish
# learned rates, take ownership of services if gateways share their queues, and read the cold
# starts that the autoscaler has learned.
#
# Run:  consul acl policy create -name aliquot-gateway -rules @jobs/gateway-consul-policy.hcl

service_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}

agent_prefix "" {
  policy = "read"
}

service "aliquot-gateway" {
  policy = "write"
}

key_prefix "aliquot/rates/" {
  policy = "write"
}

key_prefix "aliquot/owners/" {
  policy = "write"
}

key_prefix "aliquot/coldstart/" {
  policy = "read"
}

# Profiles that aliquot bench has saved.
key_prefix "aliquot/profiles/" {
  policy = "read"
}
