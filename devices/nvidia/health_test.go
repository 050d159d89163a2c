package nvidia

import (
	"strings"
	"testing"
	"time"

	"aliquot.example/devices/nvidia/nvml"
	"github.com/hashicorp/go-hclog"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
)

var rules = recovery{period: time.Minute, pendingFatal: true}

func well() indicators { return indicators{action: 0} }

func at(d time.Duration) time.Time { return time.Unix(1_800_000_000, 0).Add(d) }

func sick() *gpuHealth {
	p := &gpuHealth{}
	p.observe(at(0), well(), rules)
	p.fail(fault{XID: 95, Text: "XID 95", At: at(0)})
	return p
}

func TestAFaultNeedsAQuietPeriod(t *testing.T) {
	p := sick()
	p.observe(at(59*time.Second), well(), rules)
	if p.problem("", rules) == "" {
		t.Error("recovered before the period was over")
	}
	p.fail(fault{XID: 95, Text: "XID 95", At: at(59 * time.Second)})
	p.observe(at(70*time.Second), well(), rules)
	if p.problem("", rules) == "" {
		t.Error("a second fault did not restart the period")
	}
	if got := p.observe(at(119*time.Second), well(), rules); len(got) != 1 || p.problem("", rules) != "" {
		t.Errorf("recovered from %v, problem %q", got, p.problem("", rules))
	}
}

func TestTheDriversWordIsNeeded(t *testing.T) {
	p := sick()
	for s := range 600 {
		p.observe(at(time.Duration(s)*time.Second), indicators{action: nvmlReset}, rules)
	}
	if p.problem("", rules) == "" {
		t.Error("recovered though the driver asks for a reset")
	}
	p.observe(at(601*time.Second), well(), rules)
	if why := p.problem("", rules); why != "" {
		t.Errorf("the driver asks for nothing any more: %q", why)
	}
}

func TestSilenceIsWeakerEvidence(t *testing.T) {
	silent := indicators{action: -1}
	p := sick()
	p.observe(at(9*time.Minute), silent, rules)
	if p.problem("", rules) == "" {
		t.Error("recovered in silence within ten periods")
	}
	p.observe(at(10*time.Minute), silent, rules)
	if p.problem("", rules) != "" {
		t.Error("not recovered after ten periods")
	}
	for name, reset := range map[string]func(p *gpuHealth){
		"gone": func(p *gpuHealth) { p.absent() },
		"reset required": func(p *gpuHealth) {
			p.observe(at(time.Second), indicators{action: -1, probe: nvml.ResetRequired}, rules)
		},
		"counters cleared": func(p *gpuHealth) { p.faults[0].Uncorrected = 3 },
	} {
		p := sick()
		reset(p)
		p.observe(at(2*time.Second), silent, rules)
		if p.problem("", rules) == "" {
			t.Errorf("%s: recovered at once", name)
		}
		p.observe(at(62*time.Second), silent, rules)
		if p.problem("", rules) != "" {
			t.Errorf("%s: a GPU that was reset needs one period", name)
		}
	}
}

func TestOneFailedProbeIsNoFailure(t *testing.T) {
	p := &gpuHealth{}
	bad := indicators{action: -1, probe: nvml.Unknown}
	for range plugin.Patience - 1 {
		p.observe(at(0), bad, rules)
	}
	if why := p.problem("", rules); why != "" {
		t.Errorf("%q after %d probes", why, plugin.Patience-1)
	}
	p.observe(at(0), bad, rules)
	if why := p.problem("", rules); !strings.Contains(why, "unknown error") {
		t.Errorf("%q", why)
	}
	p.observe(at(0), well(), rules)
	if why := p.problem("", rules); why != "" {
		t.Errorf("%q after a good probe", why)
	}
}

func TestStandingProblems(t *testing.T) {
	for want, v := range map[string]indicators{
		"replacement":    {failed: true},
		"SRAM":           {sramExceeded: true},
		"memory remap":   {pending: true},
		"reboot":         {action: nvmlReboot},
		"reset of the":   {action: nvmlDrainReset},
		"traffic betwee": {action: nvmlDrainP2P},
	} {
		p := &gpuHealth{}
		p.observe(at(0), v, rules)
		if why := p.problem("", rules); !strings.Contains(why, want) {
			t.Errorf("%+v: %q", v, why)
		}
	}
	p := &gpuHealth{}
	p.observe(at(0), indicators{pending: true}, rules)
	if why := p.problem("", recovery{}); why != "" {
		t.Errorf("remap_pending = ignore: %q", why)
	}
}

func TestAFaultOfAnInstanceStaysThere(t *testing.T) {
	for _, c := range []struct {
		fault, mig string
		want       bool
	}{
		{"", "7/0", true}, {"7/0", "7/0", true}, {"7/0", "7/1", false}, {"7/", "7/1", true}, {"7/", "17/1", false}, {"7/0", "", true},
	} {
		if got := (fault{MIG: c.fault}).concerns(c.mig); got != c.want {
			t.Errorf("fault in %q, device %q: %v", c.fault, c.mig, got)
		}
	}
}

// TestXIDPolicy pins the classes that were decided against or beyond the catalog.
func TestXIDPolicy(t *testing.T) {
	p := newPolicy([]uint64{62}, []uint64{13})
	for n, want := range map[uint64]class{
		31: application, 43: application, 45: application, 94: application, 63: informational, 154: informational,
		48: fatal, 64: fatal, 74: fatal, 79: fatal, 95: fatal, 109: fatal, 119: fatal, 120: fatal,
		9999: fatal,                    // what is not known
		62:   informational, 13: fatal, // what the operator says
	} {
		if got := p.class(n); got != want {
			t.Errorf("XID %d is class %d, want %d", n, got, want)
		}
	}
	if text := p.text(9999); !strings.Contains(text, "not in this release's table") {
		t.Errorf("%q", text)
	}
}

func TestTheMonitorPollsWhereNoEventsAreHeard(t *testing.T) {
	w := newMonitor(t.TempDir(), newPolicy(nil, nil), rules, hclog.NewNullLogger())
	round := func(s int, errors uint64, heard bool) string {
		r := reading{gpu: gpu.GPU{ID: "GPU-1"}, indicators: indicators{action: -1, uncorrected: errors}}
		w.observe(at(time.Duration(s)*time.Second), []reading{r}, map[gpu.ID]bool{"GPU-1": heard})
		return w.problem("GPU-1", "")
	}
	if why := round(0, 5, false); why != "" {
		t.Errorf("errors of before: %q", why)
	}
	if why := round(1, 6, true); why != "" {
		t.Errorf("events are heard: %q", why)
	}
	if why := round(2, 7, false); !strings.HasPrefix(why, "XID 48") {
		t.Errorf("a new error: %q", why)
	}
}

func TestSlicingLimits(t *testing.T) {
	for _, c := range []struct {
		target    string
		cuda, max int
	}{{"6.1", 12040, 16}, {"7.0", 12040, 48}, {"7.5", 13000, 48}, {"9.0", 13010, 60}, {"12.0", 13020, 60}} {
		if got := slicingOf(c.target, c.cuda); got.Max != c.max || got.Sharing != gpu.SharingMPS {
			t.Errorf("%s with CUDA %d: %+v, want %d", c.target, c.cuda, got, c.max)
		}
	}
	if got := slicingOf("6.1", 12040); got.Enforcement != gpu.EnforceNone || got.Memory != gpu.LevelNone {
		t.Errorf("before Volta nothing is held: %+v", got)
	}
	for _, target := range []string{"", "3.0"} {
		if got := slicingOf(target, 12000); got.Sharing != "" || got.Why == "" {
			t.Errorf("%q: %+v", target, got)
		}
	}
}
