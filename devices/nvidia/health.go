package nvidia

import (
	"fmt"
	"slices"
	"time"

	"aliquot.example/devices/nvidia/nvml"
	"aliquot.example/devices/plugin"
)

// indicators is what one round reads of a GPU's health.
type indicators struct {
	// probe is the first error of the calls that every GPU answers.
	probe nvml.Return
	// hung is set while calls about the GPU do not return.
	hung bool
	// action is what the driver recommends (NVML_GPU_RECOVERY_ACTION_*; 0 is none), -1 if this
	// driver makes no recommendations.
	action int
	// pending: a row remap or page retirement waits for a reset; failed: a row could
	// not be remapped; worn: the SRAM error threshold was passed.
	pending, failed, sramExceeded bool
	// prohibited: the GPU's compute mode allows no programs.
	prohibited bool
	// uncorrected counts ECC errors since the driver was loaded or the GPU was reset.
	uncorrected uint64
}

func (v indicators) lost() bool { return v.probe == nvml.GPUIsLost }

// recovery has the conditions under which a GPU that failed counts as healthy again.
type recovery struct {
	// period for which the GPU must answer every probe without a further error.
	period time.Duration
	// pendingFatal withdraws a GPU that needs a reset to finish a remap, so that it becomes idle
	// and can be reset.
	pendingFatal bool
}

// unproven multiplies the period for a GPU if its driver does not say whether a reset is needed and
// no reset was seen. The GPU gets no new tasks during that time, so the absence of errors is weaker
// evidence than the driver's statement.
const unproven = 10

// fault is an error from which a GPU must recover. It is kept on disk, because a
// restart of the plugin is no recovery.
type fault struct {
	// XID is 0 if the GPU was lost without one.
	XID  uint64
	Text string
	// At is when it was last raised, Since when first.
	At    time.Time
	Since time.Time `json:",omitzero"`
	// MIG is the GPU and compute instance ("7/0") or the GPU instance ("7/") to which the fault
	// is confined, "" for the whole GPU.
	MIG string `json:",omitempty"`
	// Away is set once the GPU was gone or reset, or its driver reloaded, since the fault.
	Away        bool   `json:",omitempty"`
	Uncorrected uint64 `json:",omitempty"`
}

// gpuHealth is the health of one GPU. Callers pass all times; it reads no clock.
type gpuHealth struct {
	faults     []fault
	indicators indicators
	// good is the time since which every probe was answered; zero if the last was not.
	good time.Time
	bad  int  // consecutive probes that failed
	seen bool // indicators were read at least once
}

// fail records a fault, or renews the same fault of the same instance. It reports whether the fault is
// new.
func (p *gpuHealth) fail(f fault) bool {
	f.Uncorrected, f.Since = p.indicators.uncorrected, f.At
	for i, old := range p.faults {
		if old.XID == f.XID && old.MIG == f.MIG {
			if f.Since = old.Since; f.Since.IsZero() {
				f.Since = old.At
			}
			p.faults[i] = f // keep the order: problem reports the first
			return false
		}
	}
	p.faults = append(p.faults, f)
	return true
}

// absent records that the GPU is not listed, or needs a reset.
func (p *gpuHealth) absent() {
	p.good = time.Time{}
	for i := range p.faults {
		p.faults[i].Away = true
	}
}

// observe records the indicators of a GPU that is present. It removes and returns the faults from
// which the GPU has recovered.
func (p *gpuHealth) observe(now time.Time, v indicators, r recovery) (recovered []fault) {
	p.indicators, p.seen = v, true
	if v.probe != nvml.Success {
		p.bad++
		p.good = time.Time{}
		if v.probe == nvml.ResetRequired {
			p.absent()
		}
		return nil
	}
	p.bad = 0
	if p.good.IsZero() {
		p.good = now
	}
	for i, f := range p.faults {
		p.faults[i].Away = f.Away || v.uncorrected < f.Uncorrected
	}
	p.faults = slices.DeleteFunc(p.faults, func(f fault) bool {
		if p.healed(f, now, r) {
			recovered = append(recovered, f)
			return true
		}
		return false
	})
	return recovered
}

// healed reports whether a fault is proven gone: the driver recommends no action, and for the period
// the GPU has answered every probe and not raised this error. The period is longer if the driver makes
// no recommendations and no reset was seen.
func (p *gpuHealth) healed(f fault, now time.Time, r recovery) bool {
	since := p.good
	if f.At.After(since) {
		since = f.At
	}
	need := r.period
	if p.indicators.action < 0 && !f.Away {
		need *= unproven
	}
	return p.indicators.action <= 0 && now.Sub(since) >= need
}

// problem returns why an instance of the GPU (mig "" for the GPU itself) cannot take tasks, or "" if
// it can. The text changes only with the cause.
func (p *gpuHealth) problem(mig string, r recovery) string {
	for _, f := range p.faults {
		if f.concerns(mig) {
			since := f.Since
			if since.IsZero() {
				since = f.At
			}
			return fmt.Sprintf("%s at %s; the GPU returns to service when it has proven healthy", f.Text,
				since.UTC().Format(time.RFC3339))
		}
	}
	v := p.indicators
	if !v.hung && v.probe != nvml.Success && p.bad >= plugin.Patience {
		return "GPU does not answer: " + describe(v.probe)
	}
	return v.problem(r)
}

// problem returns what prevents the GPU from taking tasks according to one reading, or "".
func (v indicators) problem(r recovery) string {
	switch {
	case v.hung:
		return fmt.Sprintf("a call into the driver about this GPU has not returned for %s; "+
			"check the kernel's log and look for hung processes, then drain and reboot the node", hangTime)
	case v.action == nvmlReset || v.action == nvmlDrainReset:
		return "the driver asks for a reset of the GPU (nvidia-smi --gpu-reset)"
	case v.action == nvmlReboot:
		return "the driver asks for a reboot of the host"
	case v.action == nvmlDrainP2P:
		return "the driver asks to end traffic between GPUs"
	case v.failed:
		return "a memory row could not be remapped; the GPU needs a replacement"
	case v.sramExceeded:
		return "the GPU's SRAM has passed its threshold of errors; the GPU needs a replacement"
	case v.pending && r.pendingFatal:
		return "a memory remap waits for a reset of the GPU (nvidia-smi --gpu-reset)"
	case v.prohibited:
		return errProhibited.Error()
	}
	return ""
}

const (
	nvmlReset      = int(nvml.RecoveryReset)
	nvmlReboot     = int(nvml.RecoveryReboot)
	nvmlDrainP2P   = int(nvml.RecoveryDrainP2P)
	nvmlDrainReset = int(nvml.RecoveryDrainAndReset)
)

// concerns reports whether a fault affects the GPU (mig "") or one of its MIG devices.
func (f fault) concerns(mig string) bool {
	switch {
	case f.MIG == "" || mig == "":
		return true
	case f.MIG[len(f.MIG)-1] == '/':
		return len(mig) >= len(f.MIG) && mig[:len(f.MIG)] == f.MIG
	default:
		return f.MIG == mig
	}
}
