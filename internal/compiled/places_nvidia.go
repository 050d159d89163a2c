package compiled

// nvidiaFolders have the engines that TensorRT-LLM builds among them.
var nvidiaFolders = map[string]string{"CUDA_CACHE_PATH": "cuda", "TLLM_LLMAPI_BUILD_CACHE_ROOT": "tensorrt_llm",
	"TRTLLM_DG_CACHE_DIR": "tensorrt_llm/deep_gemm"}

// settings are variables without which a cache is too small, or off.
var settings = map[string]string{"CUDA_CACHE_MAXSIZE": "4294967296", "TLLM_LLMAPI_BUILD_CACHE": "1"}
