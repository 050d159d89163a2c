# What the agent of jobs/node.nomad.hcl may do in Consul: read what is wanted, take and
# give back slots, and say how its node is. What is wanted decides which driver is
# installed as root on every node: only operators may write it.
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
