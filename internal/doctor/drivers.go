package doctor

import kernel "aliquot.example/internal/driver"

// drivers checks the GPU drivers of the host for different versions, packages that upgrades would
// replace, and missing parts.
func drivers(f Facts) []Finding {
	if f.Host == nil || len(f.Host.GPUs) == 0 {
		return nil
	}
	var out []Finding
	for _, s := range kernel.Diagnose(*f.Host) {
		level := Warning
		if s.Severe {
			level = Failure
		}
		out = append(out, Finding{level, "gpu driver", s.What, s.Fix})
	}
	if out == nil {
		return []Finding{{OK, "gpu driver", "drivers, libraries and packages match the GPUs and each other", ""}}
	}
	return out
}
