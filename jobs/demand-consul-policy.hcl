# Consul policy for jobs/demand.nomad.hcl: store the typical demand.
#
# Run:  consul acl policy create -name aliquot-demand -rules @jobs/demand-consul-policy.hcl

key "aliquot/packing/demand" {
  policy = "write"
}
