# Consul policy for the turns of jobs/prepull.nomad.hcl: hold a lock on a key.
#
# Run:  consul acl policy create -name aliquot-prepull -rules @jobs/prepull-consul-policy.hcl

session_prefix "" {
  policy = "write"
}

key_prefix "aliquot/pull/" {
  policy = "write"
}
