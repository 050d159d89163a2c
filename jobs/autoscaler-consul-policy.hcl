# Consul policy for the autoscaler's plugins: find gateways and replicas, read the rates that
# gateways publish, and store learned cold starts and speeds.
#
# Run:  consul acl policy create -name aliquot-autoscaler -rules @jobs/autoscaler-consul-policy.hcl

service_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}

key_prefix "aliquot/rates/" {
  policy = "read"
}

key_prefix "aliquot/coldstart/" {
  policy = "write"
}

key_prefix "aliquot/speed/" {
  policy = "write"
}

# Profiles that aliquot bench has saved.
key_prefix "aliquot/profiles/" {
  policy = "read"
}
