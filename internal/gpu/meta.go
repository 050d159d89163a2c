package gpu

// The keys with which a replica describes itself in its service's meta. Gateway and router read them. A
// task-level service block sets most of them from the grant.
const (
	MetaClass     = "gpu_class"            // hardware class, a DNS label
	MetaSlices    = "aliquot_slices"       // slices of one GPU, or whole GPUs
	MetaTotal     = "aliquot_slices_total" // number of slices into which the GPU is divided
	MetaWeight    = "aliquot_weight"       // expected rate of the grant, H100 SXM = 1
	MetaSlots     = "concurrency"          // requests that the replica serves at a time
	MetaKVTokens  = "kv_tokens"            // tokens that an engine's cache holds
	MetaMaxPrompt = "max_model_len"        // tokens of prompt and response together
	MetaRoute     = "aliquot_route"        // "true" opts a service in to the router
	MetaAffinity  = "aliquot_affinity"     // headers whose value leads to one replica of a class
)
