# What the page may do in Consul: find gateways, read what the router wrote, and the
# documents by which speeds and demand are counted.
#
# Run:  consul acl policy create -name aliquot-ui -rules @jobs/ui-consul-policy.hcl

service_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}

key_prefix "aliquot/" {
  policy = "read"
}
