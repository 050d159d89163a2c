package compiled

import (
	"maps"
	"path"
	"slices"
)

// EnvBuilt names the folder for what a program builds by itself, such as the engines of
// TensorRT and the libraries of TVM.
const EnvBuilt = "ALIQUOT_COMPILED"

// folders are the variables by which compilers and servers find their caches, and a
// folder for each. FLASHINFER_CUBIN_DIR is not among them: it would hide the kernels that
// an image brings along.
var folders = map[string]string{
	"VLLM_CACHE_ROOT":                    "vllm",
	"VLLM_FLASHINFER_AUTOTUNE_CACHE_DIR": "vllm/flashinfer_autotune",
	"TORCHINDUCTOR_CACHE_DIR":            "inductor",
	"TORCH_EXTENSIONS_DIR":               "torch_extensions",
	"TRITON_CACHE_DIR":                   "triton",
	"FLASHINFER_WORKSPACE_BASE":          "flashinfer",
	"DG_JIT_CACHE_DIR":                   "deep_gemm",
	"SGLANG_CACHE_DIR":                   "sglang",
	"SGLANG_DG_CACHE_DIR":                "sglang/deep_gemm",
	"TILELANG_CACHE_DIR":                 "tilelang",
	"CUTE_DSL_CACHE_DIR":                 "cute_dsl",
	"TVM_FFI_CACHE_DIR":                  "tvm_ffi",
	EnvBuilt:                             "built",
}

// ofVendors are those of the vendors' own software.
var ofVendors = []map[string]string{nvidiaFolders, amdFolders}

// Places returns the environment that has all caches in a directory.
func Places(dir string) map[string]string {
	env := map[string]string{}
	for _, some := range append(ofVendors, folders) {
		for name, folder := range some {
			env[name] = path.Join(dir, folder)
		}
	}
	maps.Copy(env, settings)
	return env
}

// Folders lists the folders that Places names, below the directory.
func Folders() (all []string) {
	for _, some := range append(ofVendors, folders) {
		all = slices.AppendSeq(all, maps.Values(some))
	}
	return all
}
