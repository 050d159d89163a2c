package main

// column is one published benchmark: tokens per second and accelerator, by class of the hardware
// table.
type column struct {
	name string
	rate map[string]float64
}

// llama70b holds the closed-division llama2-70b-99 results of MLCommons per accelerator, best
// available system: MLPerf Inference v5.1 (inference_results_v5.1, summary_results.json,
// 2025-09-09; MI355X is in the open division) and v4.1 (the results' logs, valid ones only).
var llama70b = []column{
	{"v5.1 offline", map[string]float64{
		"h100": 3902, "h200": 4415, "h200-nvl": 3908, "b200": 12864, "gb200": 13015, "rtx-pro-6000": 3276,
		"mi300x": 3482, "mi325x": 4319, "mi355x": 11631,
	}},
	{"v5.1 server", map[string]float64{
		"h100": 3821, "h200": 4274, "h200-nvl": 3634, "b200": 12701, "gb200": 12340, "rtx-pro-6000": 3251,
		"mi300x": 3108, "mi325x": 4017,
	}},
	{"v4.1 offline", map[string]float64{
		"l40s": 465, "h100-pcie": 1160, "h100-nvl": 2215, "h100": 3066, "h200": 4015, "gh200": 4068, "mi300x": 3063,
		"b200": 11264,
	}},
}

// llama8b is MLPerf Inference v5.1, llama3.1-8b offline, per accelerator.
var llama8b = column{"v5.1 llama3.1-8b offline", map[string]float64{
	"h100": 5777, "h200": 8255, "h200-nvl": 6347, "b200": 18370, "rtx-pro-6000": 5855, "l40s": 1642,
}}

// argonneClasses are the columns of argonne. The source does not say which A100 and MI250 it used:
// we assume the 40 GB part and the whole module.
var argonneClasses = [5]string{"a100-40gb", "h100", "gh200", "mi250x", "mi300x"}

// argonneRow is one configuration: tokens of input and of output, batch size, and tokens per
// second, input and output together, on one GPU; 0 if not measured.
type argonneRow struct {
	model         string
	tokens, batch int
	rate          [5]float64
}

// argonne is Argonne's LLM-Inference-Bench (BSD-3-Clause, Plots/All_results.csv): one GPU, FP16,
// vLLM of 2024.
var argonne = []argonneRow{
	{"Llama-2-7b-hf", 128, 1, [5]float64{155, 274, 297, 140, 119}},
	{"Llama-2-7b-hf", 128, 16, [5]float64{2035, 3608, 3793, 1796, 2824}},
	{"Llama-2-7b-hf", 128, 64, [5]float64{4920, 8879, 8576, 4477, 4871}},
	{"Llama-2-7b-hf", 1024, 1, [5]float64{147, 261, 282, 131, 200}},
	{"Llama-2-7b-hf", 1024, 16, [5]float64{1308, 2488, 2687, 1433, 2242}},
	{"Llama-2-7b-hf", 1024, 64, [5]float64{1485, 4016, 4397, 2371, 2894}},
	{"Llama-2-7b-hf", 2048, 1, [5]float64{143, 259, 279, 131, 210}},
	{"Llama-2-7b-hf", 2048, 16, [5]float64{756, 1857, 2008, 1153, 1804}},
	{"Llama-2-7b-hf", 2048, 64, [5]float64{829, 2238, 2387, 1405, 1991}},
	{"Meta-Llama-3-8B", 128, 1, [5]float64{140, 258, 270, 130, 118}},
	{"Meta-Llama-3-8B", 128, 16, [5]float64{1869, 3516, 3704, 1685, 2642}},
	{"Meta-Llama-3-8B", 128, 64, [5]float64{4982, 9705, 9801, 3751, 4185}},
	{"Meta-Llama-3-8B", 1024, 1, [5]float64{137, 253, 272, 122, 194}},
	{"Meta-Llama-3-8B", 1024, 16, [5]float64{1645, 2972, 3073, 1494, 2204}},
	{"Meta-Llama-3-8B", 1024, 64, [5]float64{3625, 6969, 6793, 1542, 2136}},
	{"Meta-Llama-3-8B", 2048, 1, [5]float64{136, 251, 268, 121, 205}},
	{"Meta-Llama-3-8B", 2048, 16, [5]float64{1422, 2567, 2617, 1353, 1838}},
	{"Meta-Llama-3-8B", 2048, 64, [5]float64{2085, 5437, 5184, 914, 1369}},
	{"Mistral-7B-v0.1", 128, 1, [5]float64{149, 271, 0, 136, 256}},
	{"Mistral-7B-v0.1", 128, 16, [5]float64{1955, 3644, 0, 1759, 2716}},
	{"Mistral-7B-v0.1", 128, 64, [5]float64{4968, 8759, 0, 3903, 4348}},
	{"Mistral-7B-v0.1", 1024, 1, [5]float64{144, 258, 0, 127, 190}},
	{"Mistral-7B-v0.1", 1024, 16, [5]float64{1630, 2902, 0, 1560, 2274}},
	{"Mistral-7B-v0.1", 1024, 64, [5]float64{3304, 4196, 0, 1576, 2183}},
	{"Mistral-7B-v0.1", 2048, 1, [5]float64{143, 256, 0, 126, 205}},
	{"Mistral-7B-v0.1", 2048, 16, [5]float64{1371, 2449, 0, 1430, 1889}},
	{"Mistral-7B-v0.1", 2048, 64, [5]float64{1834, 2636, 0, 928, 1393}},
}
