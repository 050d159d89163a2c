# Consul policy for the agent of jobs/node.nomad.hcl: read the wanted drivers, take and release
# slots, and report the state of its node. The agent installs the wanted drivers as root on every
# node, so only operators should be able to write them.
#
# Run:  consul acl policy create -name aliquot-node -rules @jobs/node-consul-policy.hcl

key "aliquot/node/wanted" {
  policy = "read"
}

key "aliquot/node/slots" {
  policy = "write"
}

key_prefix "aliquot/node/nodes/" {
  policy = "write"
}
