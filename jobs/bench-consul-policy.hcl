# What jobs/bench.nomad.hcl and aliquot bench -save may do in Consul: find replicas, and
# keep profiles.
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
