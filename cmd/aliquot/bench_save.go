package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
	"aliquot.example/internal/scale"
	"aliquot.example/profiler"
)

// profileFlags holds the flags about the measured service and its profile.
type profileFlags struct {
	service          string
	save             bool
	objectives       list
	parsedObjectives []learned.Objective // objectives, parsed
	// replica is the kind of replica: first from the flags, then completed from Consul and Nomad.
	replica profiler.Replica
}

// requestTimeout is the timeout of each request to Consul and Nomad.
const requestTimeout = 15 * time.Second

// check validates the flags. url is the server's, or "" to find one by the service.
func (k *profileFlags) check(url string) error {
	if err := k.checkKind(); err != nil {
		return err
	}
	switch {
	case url == "" && k.service == "":
		return errors.New("no server: want -url or -service")
	case strings.Contains(k.service, "/"):
		return fmt.Errorf("-service=%s: want the name of a service, which has no slash", k.service)
	case k.save && k.service == "":
		return errors.New("-save writes a profile of a service: want -service")
	case k.save && url != "" && (k.replica.Class == "" || k.replica.Slices == ""):
		return errors.New("-save writes a profile of a kind of replica: with -url, want -class and -slices too")
	case len(k.objectives) > 0 && !k.save:
		return errors.New("-objective adds to the profile: want -save too")
	}
	for _, text := range k.objectives {
		o, err := scale.ParseObjective(text)
		if err != nil {
			return fmt.Errorf("-objective: %w", err)
		}
		k.parsedObjectives = append(k.parsedObjectives, secondsOf(o))
	}
	return nil
}

// checkKind validates the flags that name a kind of replica.
func (k *profileFlags) checkKind() error {
	if k.replica.Slices != "" {
		if _, _, ok := learned.ParseSlices(k.replica.Slices); !ok {
			return fmt.Errorf("-slices=%s: want a share such as 10of20, or 1of1 for a whole GPU", k.replica.Slices)
		}
	}
	if k.replica.Class != "" && gpu.Slug(k.replica.Class) != k.replica.Class {
		return fmt.Errorf("-class=%s: want a hardware class such as h100", k.replica.Class)
	}
	return nil
}

func secondsOf(o scale.Objective) learned.Objective {
	return learned.Objective{TTFT: o.TTFT.Seconds(), TPOT: o.TPOT.Seconds(), E2E: o.E2E.Seconds()}
}

// find looks up a replica of the service.
func (k *profileFlags) find() error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	client, err := consul.NewClient(consul.DefaultConfig())
	if err != nil {
		return err
	}
	r, err := profiler.Find(ctx, client, k.service, k.replica.Class, k.replica.Slices)
	if err != nil {
		return err
	}
	if r.Class == "" && k.save {
		return fmt.Errorf("the replica of %q has no %s in its service's meta: want -url, -class and -slices",
			k.service, gpu.MetaClass)
	}
	k.replica = r
	return nil
}

// versions asks Nomad for the image and the driver of the replica.
func (k *profileFlags) versions() error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	client, err := nomad.NewClient(nomad.DefaultConfig())
	if err != nil {
		return err
	}
	of := k.replica
	if err := of.Versions(ctx, client); err != nil {
		return err
	}
	k.replica.Image, k.replica.Driver = orOther(k.replica.Image, of.Image), orOther(k.replica.Driver, of.Driver)
	return nil
}

func orOther(flag, found string) string {
	if flag != "" {
		return flag
	}
	return found
}

// saveProfile saves the report as a profile, and records in the report what has changed since the last
// one.
func (k *profileFlags) saveProfile(report *profiler.Report) error {
	if err := k.versions(); err != nil {
		report.Notes = append(report.Notes, "image and driver are unknown: "+flat(err))
	}
	p, err := report.Profile(k.replica, k.parsedObjectives)
	if err != nil {
		return fmt.Errorf("no profile was saved: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	client, err := consul.NewClient(consul.DefaultConfig())
	if err != nil {
		return err
	}
	before, err := profilekv.Save(ctx, client, k.service, p)
	if err != nil {
		return err
	}
	if !before.Measured.IsZero() {
		report.Changed, report.Slower = p.Changes(before)
	}
	return nil
}

// kind describes a kind of replica in words.
func kind(class, size string) string {
	have, of, _ := learned.ParseSlices(size)
	switch {
	case of > 1:
		return fmt.Sprintf("%s, %d of %d slices", class, have, of)
	case have > 1:
		return class + ", " + strconv.Itoa(have) + " whole GPUs"
	}
	return class + ", a whole GPU"
}
