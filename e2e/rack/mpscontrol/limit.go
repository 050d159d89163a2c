package main

import (
	"fmt"
	"strconv"
	"strings"

	"aliquot.example/e2e/rack/wire"
)

// mebibytes parses a memory limit: a whole number with the unit G, GB, M or MB.
func mebibytes(s string) (int, error) {
	upper := strings.TrimSuffix(strings.ToUpper(strings.TrimSpace(s)), "B")
	factor := 1
	if strings.HasSuffix(upper, "G") {
		factor = 1024
	}
	digits := strings.TrimRight(upper, "GM")
	n, err := strconv.Atoi(digits)
	if err != nil || n <= 0 || len(upper)-len(digits) != 1 {
		return 0, controlErrorf("Invalid memory limit %q", s)
	}
	return n * factor, nil
}

// limits parses "0=1G,1=512MB" and ignores what it cannot parse.
func limits(list string) map[string]string {
	out := map[string]string{}
	for _, one := range strings.Split(list, ",") {
		device, limit, _ := strings.Cut(one, "=")
		if _, err := mebibytes(limit); err == nil {
			out[strings.TrimSpace(device)] = strings.TrimSpace(limit)
		}
	}
	return out
}

// limitOf returns a device's limit in MiB, by ordinal or UUID, or 0 if it has none.
func limitOf(limits map[string]string, ordinal int, uuid string) int {
	text, ok := limits[uuid]
	if !ok {
		text = limits[strconv.Itoa(ordinal)]
	}
	n, _ := mebibytes(text)
	return n
}

func lower(a, b int) int {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// portion returns the SMs of a device at a percentage: rounded down to the hardware's step, and at
// least one step.
func portion(d wire.Device, percentage float64) int {
	units := int(float64(d.SMs)*percentage/100+1e-9) / d.Step * d.Step
	return min(max(units, d.Step), d.SMs)
}

// maxClients returns the maximum clients of a device: 16 before Volta; 48 from Volta, 60 since CUDA
// 13.1.
func maxClients(device wire.Device, cuda string) int {
	major, _, _ := strings.Cut(device.Compute, ".")
	if n, _ := strconv.Atoi(major); n < 7 {
		return 16
	}
	var cudaMajor, cudaMinor int
	_, _ = fmt.Sscanf(cuda, "%d.%d", &cudaMajor, &cudaMinor)
	if cudaMajor > 13 || (cudaMajor == 13 && cudaMinor >= 1) {
		return 60
	}
	return 48
}
