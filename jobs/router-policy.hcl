# What a token of `aliquot router` must be allowed in Consul, and nothing more.
#
#   consul acl policy create -name aliquot-router -rules @jobs/router-policy.hcl
#
# Consul has no finer right than service:write for config entries of services. To
# confine the router to some services, give service_prefix "" the policy "read" and
# add, for each of them:
#
#   service        "chat"   { policy = "write" }
#   service_prefix "chat--" { policy = "write" }   # virtual services of its rules

# Config entries of services that opt in; the catalog and health of all.
service_prefix "" {
  policy     = "write"
  intentions = "deny"
}

# Instances are only shown together with their nodes.
node_prefix "" {
  policy = "read"
}

# The session that holds the leader's lock, on the node of the agent asked.
session_prefix "" {
  policy = "write"
}

key "aliquot/router/leader" {
  policy = "write"
}

# Rates that the gateways learned.
key_prefix "aliquot/rates/" {
  policy = "read"
}

# Profiles that aliquot bench saved.
key_prefix "aliquot/profiles/" {
  policy = "read"
}
