# Consul policy for the router, with the least rights that it needs.
#
# Run:  consul acl policy create -name aliquot-router -rules @jobs/router-policy.hcl
#
# Consul's finest right for config entries of services is service:write. To limit the router to
# some services, set the policy of service_prefix "" to "read", and add for each of them:
#
#   service        "chat"   { policy = "write" }
#   service_prefix "chat--" { policy = "write" }   # virtual services of its rules

# Config entries of services that opt in, and the catalog and health of all services.
service_prefix "" {
  policy     = "write"
  intentions = "deny"
}

# Consul shows instances only together with their nodes.
node_prefix "" {
  policy = "read"
}

# The session of the leader's lock, on the node of the router's Consul agent.
session_prefix "" {
  policy = "write"
}

key "aliquot/router/leader" {
  policy = "write"
}

# Rates that the gateways have learned.
key_prefix "aliquot/rates/" {
  policy = "read"
}

# Profiles that aliquot bench has saved.
key_prefix "aliquot/profiles/" {
  policy = "read"
}
