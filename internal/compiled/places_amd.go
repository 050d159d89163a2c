package compiled

// amdFolders have AITER's own modules among them: Python looks for those there first.
var amdFolders = map[string]string{"MIOPEN_USER_DB_PATH": "miopen/db", "MIOPEN_CUSTOM_CACHE_DIR": "miopen/cache",
	"AITER_JIT_DIR": "aiter"}
