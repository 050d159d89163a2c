package aliquot

import (
	"context"
	"maps"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/internal/version"
)

// Fingerprint implements drivers.DriverPlugin: the docker driver's health and attributes under this
// driver's name. The first call also starts the background work, because before it the process may only
// have been launched to validate the configuration.
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

// pass sends the docker driver's fingerprints, and sends the last one again when the levels change.
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
			// The docker driver blocks while it sends, so receive its remaining fingerprints.
			for range in {
			}
			return
		}
	}
}

// ofDocker is the prefix of the embedded driver's attributes. Under this prefix they would overwrite
// those of the agent's own docker driver.
const (
	ofDocker = "driver.docker"
	ofOurs   = "driver." + Name
)

// learn saves the engine's runtimes from a fingerprint, so that the start of a task needs no request for
// them.
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
		// The vendors whose kernel drivers are loaded, for jobs that run on GPU nodes without
		// requesting a GPU, such as jobs/prepull.nomad.hcl.
		if v.present(set.host) {
			out.Attributes[ofOurs+".gpu."+string(v.of)] = pstructs.NewBoolAttribute(true)
		}
	}
	d.levels.add(out.Attributes)
	return d.guard(set, &out)
}
