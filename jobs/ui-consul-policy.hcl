# Consul policy for the web page: find gateways, read the router's config entries, and read the
# documents that contain learned speeds and demand.
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
