# Consul policy for jobs/prepull.nomad.hcl: hold locks that limit how many nodes pull at once.
#
# Run:  consul acl policy create -name aliquot-prepull -rules @jobs/prepull-consul-policy.hcl

session_prefix "" {
  policy = "write"
}

key_prefix "aliquot/pull/" {
  policy = "write"
}
