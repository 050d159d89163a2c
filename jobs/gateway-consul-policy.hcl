# Consul policy for the gateway: find replicas and other gateways, register itself, publish
# learned rates, own services if gateways share their queues, and read what the autoscaler
# has learned about starts.
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
