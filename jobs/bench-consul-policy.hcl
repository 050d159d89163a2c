# Consul policy for jobs/bench.nomad.hcl and aliquot bench -save: find replicas, and store
# profiles.
#
# Run:  consul acl policy create -name aliquot-bench -rules @jobs/bench-consul-policy.hcl

service_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}

key_prefix "aliquot/profiles/" {
  policy = "write"
}
