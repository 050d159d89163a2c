package aliquot

import (
	"maps"
	"slices"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
)

// attachment has what a container needs from the host to use a grant, and nothing that belongs to
// another GPU.
type attachment struct {
	how    string // one of the Attach constants
	nodes  []*drivers.DeviceConfig
	mounts []*drivers.MountConfig
	groups []string
	env    map[string]string
	// last overrides variables that the device plugin reserved; "" removes a variable.
	last map[string]string
}

func (a *attachment) addNode(n *drivers.DeviceConfig) {
	if !slices.ContainsFunc(a.nodes, func(o *drivers.DeviceConfig) bool { return o.TaskPath == n.TaskPath }) {
		a.nodes = append(a.nodes, n)
	}
}

func (a *attachment) addMount(m *drivers.MountConfig) {
	if !slices.ContainsFunc(a.mounts, func(o *drivers.MountConfig) bool { return o.TaskPath == m.TaskPath }) {
		a.mounts = append(a.mounts, m)
	}
}

// attachTo decides how the task gets its grant and collects what it needs for that. It is called at
// every start, because the host may have changed since the grant.
func (s settings) attachTo(g gpu.Grant, task TaskConfig, runtimes []string) (attachment, error) {
	v, err := vendorOf(g)
	if err != nil {
		return attachment{}, err
	}
	a, err := v.attach(s, g, task, runtimes)
	if err != nil {
		return a, err
	}
	if a.env == nil {
		a.env = map[string]string{}
	}
	if a.how != AttachRuntime {
		a.env[visibleDevices] = visibleNone
	}
	return a, nil
}

// environment returns the task's environment. Later layers override earlier ones: the job's variables
// with its templates, the variant's, the attachment's, and those that confine the task to its grant.
func environment(job, ofVariant, device map[string]string, a attachment) map[string]string {
	out := map[string]string{}
	for _, layer := range []map[string]string{job, ofVariant, a.env, device} {
		maps.Copy(out, layer)
	}
	if visible, ok := a.env[visibleDevices]; ok {
		out[visibleDevices] = visible
	}
	for name, value := range a.last {
		if out[name] = value; value == "" {
			delete(out, name)
		}
	}
	return out
}
