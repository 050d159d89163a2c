package compiled

var nvidiaFolders = map[string]string{"CUDA_CACHE_PATH": "cuda"}

// settings are variables without which a cache is too small.
var settings = map[string]string{"CUDA_CACHE_MAXSIZE": "4294967296"}
