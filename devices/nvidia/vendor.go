// Package nvidia is NVIDIA's part of the device plugin: GPUs and MIG devices from NVML, one MPS daemon
// for each shared GPU, and health from XIDs, ECC errors and the driver's recommendations. It calls NVML
// without cgo (package nvml).
//
// MPS percentages and memory limits are part of the task's environment, which the task could change, so
// they are called cooperative. Static SM partitions and the namespaces of MPS v3 would hold against any
// task. But a partition must be created for a task and freed after it, and Nomad does not notify a
// device plugin when a task ends; docs/decisions/0012-memory-limits-and-mps-v3.md says what would be
// needed.
package nvidia

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/mps"
	"aliquot.example/internal/share"
)

// Name of the plugin and its binary.
const Name = "aliquot-device-nvidia"

// Maker describes NVIDIA's plugin.
func Maker() plugin.Maker {
	return plugin.Maker{
		Name:   Name,
		Vendor: gpu.NVIDIA,
		Modes:  []share.Mode{share.Shared, share.Whole, share.MIG, share.Off},
		Keys: []plugin.Key{{Name: "library"}, {Name: "mps_control"}, {Name: "mps_multi_user"}, {Name: "mps_shm_size"},
			{Name: "mps_exclusive"},
			{Name: "recovery_period"}, {Name: "remap_pending"}, {Name: "xid_ignore", List: true},
			{Name: "xid_fatal", List: true}},
		New: newVendor,
	}
}

// vendor implements plugin.Vendor.
type vendor struct {
	cfg     plugin.Config
	host    plugin.Host
	lib     *library
	monitor *monitor
	mps     *daemons
	events  *events
	usage   sampler
	// exclusiveMode gives shared GPUs the compute mode EXCLUSIVE_PROCESS.
	exclusiveMode bool
	loggedLeft    string // the last log text about GPUs that were left out
	foreign       string // the last log text about foreign MPS daemons
}

func newVendor(cfg plugin.Config, host plugin.Host) (plugin.Vendor, error) {
	s := cfg.Settings
	path := ""
	if s.Has("library") {
		path = s.Path("library", "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1")
	}
	policy := newPolicy(xids(s, "xid_ignore"), xids(s, "xid_fatal"))
	rules := recovery{
		period:       s.Duration("recovery_period", time.Minute, time.Second, 24*time.Hour),
		pendingFatal: s.OneOf("remap_pending", "unhealthy", "ignore") == "unhealthy",
	}
	v := &vendor{cfg: cfg, host: host, lib: &library{path: path, root: cfg.Root},
		usage: sampler{seen: map[gpu.ID]uint64{}}}
	v.monitor = newMonitor(cfg.RunDir, policy, rules, host.Log)
	var options []string
	if s.Bool("mps_multi_user", false) {
		options = append(options, "-multiuser-server")
	}
	v.mps = newDaemons(cfg.RunDir, s.String("mps_control", mps.Program), options, host, v)
	v.exclusiveMode = s.Bool("mps_exclusive", true)
	if size := s.String("mps_shm_size", "25%"); size != "host" {
		if !shmSize.MatchString(size) {
			s.RefuseValue("mps_shm_size", size,
				`want a percentage of the host's memory or a size, such as "25%" or "16g", `+
					`or "host" for the host's /dev/shm`)
		}
		v.mps.shmSize = size
	}
	v.events = &events{lib: v.lib, monitor: v.monitor, host: host, period: cfg.Period}
	if len(cfg.RunDir) > maxRunDir {
		s.Refuse("run_dir", fmt.Sprintf(
			"want at most %d characters, because MPS creates sockets in it, whose paths are limited to 107",
			maxRunDir))
	}
	return v, s.Err()
}

// shmSize matches the sizes that tmpfs accepts.
var shmSize = regexp.MustCompile(`^[1-9][0-9]*[kmgKMG]$|^([1-9][0-9]?|100)%$`)

// maxRunDir leaves room in a socket's path for a GPU's daemon.
const maxRunDir = 107 - len("/mps/GPU-01234567-89ab-cdef-0123-456789abcdef/pipe/control")

// xids reads a list of XID numbers.
func xids(s *plugin.Settings, key string) []uint64 {
	var out []uint64
	for _, text := range s.Strings(key) {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			s.RefuseValue(key, text, "want XID numbers, such as [13, 94]")
		}
		out = append(out, n)
	}
	return out
}

// Inventory reads all GPUs and, in passing, the indicators of their health.
func (v *vendor) Inventory(ctx context.Context) ([]share.Found, error) {
	if v.changing() {
		return nil, v.releaseDriver()
	}
	v.lib.pause("")
	readings, err := v.lib.read()
	if err != nil {
		v.monitor.unread(err)
		return nil, err
	}
	if left := v.lib.left; left != v.loggedLeft {
		if v.loggedLeft = left; left != "" {
			v.host.Log.Warn("cannot read some GPUs, offering the others: " + left)
		}
	}
	v.monitor.observe(time.Now(), readings, v.events.follow(readings))
	var found []share.Found
	for _, r := range readings {
		found = append(found, r.found()...)
	}
	return found, nil
}

// Converge keeps the MPS daemons of shared GPUs and reports.
func (v *vendor) Converge(ctx context.Context, plan share.Plan) map[gpu.ID]plugin.State {
	if v.changing() {
		return v.withheld(plan)
	}
	daemons := v.mps.converge(plan)
	if len(daemons) > 0 {
		v.tellForeign()
	}
	ofDriver := mismatch(v.cfg.Root, v.lib.path)
	states := map[gpu.ID]plugin.State{}
	for _, o := range plan.Offers {
		s := plugin.State{Attributes: map[string]*structs.Attribute{}}
		if cc, err := strconv.ParseFloat(o.Target, 64); err == nil {
			// A number, so that constraints can compare it.
			s.Attributes["compute_capability"] = structs.NewFloatAttribute(cc, "")
		}
		d := daemons[physical(o)]
		s.Problem, s.Starting = d.problem, d.starting
		if problem := v.monitor.problem(physical(o), o.MIG); problem != "" {
			s.Problem, s.Starting = problem, false
		}
		if ofDriver != "" {
			s.Problem, s.Starting = ofDriver, false
		}
		states[o.ID] = s
	}
	return states
}

// tellForeign warns of other MPS control daemons, once for each change.
func (v *vendor) tellForeign() {
	warning := v.mps.foreign()
	if warning != v.foreign && warning != "" {
		v.host.Log.Warn(warning)
	}
	v.foreign = warning
}

// physical returns the physical GPU of an offer.
func physical(o share.Offer) gpu.ID {
	if o.Parent != "" {
		return o.Parent
	}
	return o.ID
}
