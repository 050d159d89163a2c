package learned

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/gpu"
)

// ProfilesPrefix is the folder of the Profiles of all services.
const ProfilesPrefix = "aliquot/profiles"

const (
	// keptProfiles is the number of profiles that are kept for one kind of replica, newest last.
	keptProfiles = 16
	// aheadOf is the maximum time by which an older profile may have a later date than a new one,
	// because of another host's clock. Beyond that the date is wrong.
	aheadOf = 24 * time.Hour
	// ProfileBelieved is the age from which a profile no longer counts: in half a year the driver,
	// the engine and the model have usually changed.
	ProfileBelieved = 180 * 24 * time.Hour
	// maxText limits the length of a version or a name in a profile.
	maxText = 200
)

// Profile is a benchmark's measurement of one model on one kind of replica.
type Profile struct {
	Measured time.Time `json:"measured"`
	Model    string    `json:"model,omitempty"`
	Image    string    `json:"image,omitempty"`
	Engine   string    `json:"engine,omitempty"` // with its version
	Driver   string    `json:"driver,omitempty"` // version of the GPU's driver
	// Class is the hardware class, and Slices the replica's part of it; see SlicesOf.
	Class  string `json:"class"`
	Slices string `json:"slices"`
	// Answers is the number of requests that were measured.
	Answers float64 `json:"answers"`
	// Curve is the curve of an engine that batches, with the mean request of the measurement; nil
	// for other servers.
	Curve *Curve `json:"curve,omitempty"`
	// Within is the load within each objective, the benchmark's first.
	Within []Within `json:"within,omitempty"`
}

// Within is the maximum load of a replica within an objective, on average.
type Within struct {
	Objective
	Concurrency float64 `json:"concurrency"`  // requests at once, 0 if it misses the objective with one
	Rate        float64 `json:"rate_per_s"`   // answers per second
	Tokens      float64 `json:"tokens_per_s"` // tokens of answers per second
}

// WithinOf returns the load that a curve predicts within an objective.
func WithinOf(c Curve, o Objective) Within {
	n, rate := c.MaxConcurrency(o)
	return Within{Objective: o, Concurrency: n, Rate: rate, Tokens: rate * c.Output}
}

// Promised returns the load at which a fraction of the requests, the quantile, meets an objective
// by a curve.
func Promised(c Curve, o Objective, quantile float64) Within {
	l := c.Within(o, quantile)
	if l.Concurrency == 0 {
		return Within{Objective: o}
	}
	return Within{Objective: o, Concurrency: l.Concurrency, Rate: l.Rate, Tokens: l.Rate * c.Output}
}

// Profiles are the measurements of one kind of replica of a service, newest last. It is the value
// of the key <prefix>/<service>/<class>/<slices>.
type Profiles struct {
	Version  int       `json:"version"`
	Profiles []Profile `json:"profiles"`
}

// ProfileKey returns the key of the Profiles of one kind of replica.
func ProfileKey(service, class, slices string) string {
	return strings.Join([]string{ProfilesPrefix, service, class, slices}, "/")
}

// ParseProfiles decodes a document. It fails on a document of another version, and on figures and
// names that no benchmark writes.
func ParseProfiles(text []byte) (Profiles, error) {
	var doc Profiles
	if err := json.Unmarshal(text, &doc); err != nil {
		return Profiles{}, fmt.Errorf("profiles are not the expected JSON: %w", err)
	}
	if doc.Version != version {
		return Profiles{}, fmt.Errorf("profiles have version %d: this release reads version %d", doc.Version, version)
	}
	for i := range doc.Profiles {
		if err := doc.Profiles[i].Check(); err != nil {
			return Profiles{}, err
		}
	}
	slices.SortStableFunc(doc.Profiles, func(a, b Profile) int { return a.Measured.Compare(b.Measured) })
	return doc, nil
}

// Add adds a profile to the document. It removes the oldest profiles and those with a date in the
// future.
func (d *Profiles) Add(p Profile) {
	d.Version = version
	d.Profiles = slices.DeleteFunc(d.Profiles, func(old Profile) bool {
		return old.Measured.After(p.Measured.Add(aheadOf)) // by a clock that was ahead
	})
	d.Profiles = append(d.Profiles, p)
	slices.SortStableFunc(d.Profiles, func(a, b Profile) int { return a.Measured.Compare(b.Measured) })
	d.Profiles = d.Profiles[max(0, len(d.Profiles)-keptProfiles):]
}

// Last returns the newest profile, or the zero Profile if there is none.
func (d Profiles) Last() Profile {
	if len(d.Profiles) == 0 {
		return Profile{}
	}
	return d.Profiles[len(d.Profiles)-1]
}

// Check returns an error for the first impossible value of a profile.
func (p Profile) Check() error {
	if p.Class == "" || gpu.Slug(p.Class) != p.Class {
		return fmt.Errorf("a profile names %.64q, which is not a hardware class", p.Class)
	}
	if _, _, ok := ParseSlices(p.Slices); !ok {
		return fmt.Errorf("a profile has %.64q for slices: want such as 10of20", p.Slices)
	}
	for _, text := range []string{p.Model, p.Image, p.Engine, p.Driver} {
		if len(text) > maxText || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return fmt.Errorf("a profile of class %s has a name that is longer than %d bytes or not printable",
				p.Class, maxText)
		}
	}
	return p.checkFigures()
}

// checkFigures returns an error for the first impossible figure of a profile.
func (p Profile) checkFigures() error {
	if p.Curve == nil && len(p.Within) == 0 {
		return errors.New("a profile has no figures")
	}
	if p.Curve != nil && (!p.Curve.Possible() || p.Curve.A == 0) {
		return fmt.Errorf("the curve of a profile of class %s is out of range", p.Class)
	}
	if !(p.Answers >= 1 && p.Answers <= 1e15) {
		return fmt.Errorf("a profile of class %s is from %g answers: want at least 1", p.Class, p.Answers)
	}
	for _, w := range p.Within {
		for _, f := range []float64{w.TTFT, w.TPOT, w.E2E, w.Concurrency, w.Rate, w.Tokens} {
			if !(f >= 0 && f <= 1e15) {
				return fmt.Errorf("a profile of class %s has the figure %g: want 0 to 1e15", p.Class, f)
			}
		}
	}
	return nil
}

// believed reports whether a profile is recent enough to count.
func (p Profile) believed(now time.Time) bool { return now.Sub(p.Measured).Abs() <= ProfileBelieved }

// class converts a profile to what gateways would have published: for the service's mean request
// and as many at once as its replicas serve or, if that is unknown, as it was measured.
func (p Profile) class(served meanRequest) (c Class, ok bool) {
	var w Within
	if len(p.Within) > 0 {
		w = p.Within[0]
	}
	if p.Curve != nil {
		curve := *p.Curve
		if served.prompt > 0 {
			curve.Prompt, curve.Output = served.prompt, served.output
		}
		w = WithinOf(curve, w.Objective)
		if w.Concurrency == 0 { // it still serves
			w = WithinOf(curve, Objective{})
		}
		curve.Rate = w.Rate
		if n := served.slots; n > 0 && n < w.Concurrency {
			w.Concurrency = n
			w.Rate, _, _ = curve.At(n)
		}
		curve.Samples = p.Answers
		c.Tokens = map[string]Curve{p.Slices: curve}
	}
	if !(w.Concurrency > 0 && w.Rate > 0) {
		return Class{}, false
	}
	c.Rate, c.Slots, c.Samples, c.Replica = w.Rate/w.Concurrency, w.Concurrency, p.Answers, w.Rate
	return c, c.check() == nil
}
