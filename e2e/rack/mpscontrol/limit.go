package main

import (
	"fmt"
	"strconv"
	"strings"

	"aliquot/e2e/rack/wire"
)

// mebibytes reads a memory limit: a number with G, GB, M, MB or nothing (bytes).
func mebibytes(s string) (int, error) {
	upper := strings.TrimSuffix(strings.ToUpper(strings.TrimSpace(s)), "B")
	shift := -20
	switch {
	case strings.HasSuffix(upper, "G"):
		shift = 10
	case strings.HasSuffix(upper, "M"):
		shift = 0
	}
	n, err := strconv.ParseInt(strings.TrimRight(upper, "GM"), 10, 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("Invalid memory limit %q", s) //nolint:staticcheck // printed as the real program prints
	}
	if shift < 0 {
		return int(n >> 20), nil
	}
	return int(n << shift), nil
}

// limitOf finds an ordinal's limit in "0=1G,1=512MB"; 0 when it has none. What
// cannot be read is as if it were not there, as CUDA has it.
func limitOf(list string, ordinal int) int {
	for _, one := range strings.Split(list, ",") {
		device, limit, ok := strings.Cut(one, "=")
		if !ok || strings.TrimSpace(device) != strconv.Itoa(ordinal) {
			continue
		}
		if n, err := mebibytes(limit); err == nil {
			return n
		}
	}
	return 0
}

func lower(a, b int) int {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// smStep is how finely the hardware splits its SMs: two share a texture
// processing cluster.
const smStep = 2

// portion is the SMs of a device at a percentage: rounded down to the step,
// at least one step.
func portion(sms int, percentage float64) int {
	units := int(float64(sms)*percentage/100+1e-9) / smStep * smStep
	return min(max(units, smStep), sms)
}

// maxClients of one device: 16 before Volta; 48 from Volta, 60 since CUDA 13.1.
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
