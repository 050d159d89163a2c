# Consul policy for the web page: find gateways, and read the router's entries and the
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
