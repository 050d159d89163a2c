# What the gateway may do in Consul: find replicas and other gateways, register itself,
# publish the rates that it learned, own services where gateways share their queues, and
# read what the autoscaler learned of starts.
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

# Profiles that aliquot bench saved.
key_prefix "aliquot/profiles/" {
  policy = "read"
}
