package aliquot

import (
	"context"
	"maps"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/internal/version"
)

// Fingerprint implements drivers.DriverPlugin: the docker driver's health and
// attributes under this driver's name. The first call is the earliest moment at
// which the process is known to serve and not only to validate, so watching the
// engine begins here.
func (d *Driver) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	in, err := d.Driver.Fingerprint(ctx)
	if err != nil {
		return nil, err
	}
	d.watch.Do(func() {
		go d.watchEngine()
		go d.watchFaults()
		go d.watchAccount(d.ctx)
		go d.watchPins()
		go d.watchHeld(d.ctx)
	})
	out := make(chan *drivers.Fingerprint)
	go func() {
		defer close(out)
		d.pass(ctx, in, out)
	}()
	return out, nil
}

// pass sends what the docker driver says, and the last of it again when the levels
// change.
func (d *Driver) pass(ctx context.Context, in <-chan *drivers.Fingerprint, out chan<- *drivers.Fingerprint) {
	var last *drivers.Fingerprint
	for {
		select {
		case fp, ok := <-in:
			if !ok {
				return
			}
			d.learn(fp)
			last = fp
		case <-d.levels.changed:
			if last == nil {
				continue // the first one will have them
			}
		}
		select {
		case out <- d.present(last):
		case <-ctx.Done():
			// The docker driver sends without a way out; take what it still has.
			for range in {
			}
			return
		}
	}
}

// ofDocker prefixes the attributes that the embedded driver would write over
// those of the agent's own docker driver.
const (
	ofDocker = "driver.docker"
	ofOurs   = "driver." + Name
)

// learn keeps the engine's runtimes: asking again at every start of a task would
// cost it a round trip.
func (d *Driver) learn(fp *drivers.Fingerprint) {
	attr, ok := fp.Attributes[ofDocker+".runtimes"]
	if !ok {
		return
	}
	if names, ok := attr.GetString(); ok {
		d.mu.Lock()
		d.runtimes = strings.Split(names, ",")
		d.mu.Unlock()
	}
}

// present renames the attributes and adds this driver's.
func (d *Driver) present(in *drivers.Fingerprint) *drivers.Fingerprint {
	out := *in
	out.Attributes = map[string]*pstructs.Attribute{}
	for name, value := range maps.All(in.Attributes) {
		rest, ok := strings.CutPrefix(name, ofDocker)
		if !ok {
			out.Attributes[name] = value
			continue
		}
		if rest == ".version" {
			rest = ".engine_version"
		}
		out.Attributes[ofOurs+rest] = value
	}
	if in.Health == drivers.HealthStateUndetected {
		return &out
	}
	set, runtimes := d.settings()
	out.Attributes[ofOurs+".version"] = pstructs.NewStringAttribute(version.Version)
	for _, v := range vendors {
		for name, value := range v.attributes(set, runtimes) {
			out.Attributes[ofOurs+"."+name] = pstructs.NewStringAttribute(value)
		}
		// Which vendors' kernel drivers are here, for jobs that go to GPU nodes without
		// asking for a GPU, such as one that pulls images beforehand.
		if v.present(set.host) {
			out.Attributes[ofOurs+".gpu."+string(v.of)] = pstructs.NewBoolAttribute(true)
		}
	}
	d.levels.add(out.Attributes)
	return d.guard(set, &out)
}
