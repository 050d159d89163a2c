# Consul policy for the agent of jobs/node.nomad.hcl: read the wanted drivers, take and give
# back slots, and report the state of its node. The wanted drivers are installed as root on
# every node: only operators may write them.
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
