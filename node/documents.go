package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/driver"
)

// Documents are the documents of a rollout in Consul KV: the wanted drivers (…/wanted, which
// operators write), the slots (…/slots) and the report of each node (…/nodes/<ID>), which agents
// write.
type Documents struct {
	KV *consul.KV
	// Prefix is the prefix of the keys, without a slash at its end.
	Prefix string
}

// Status is a rollout as a whole.
type Status struct {
	Wanted driver.Wanted       `json:"wanted"`
	Slots  driver.Slots        `json:"slots"`
	Nodes  []driver.NodeReport `json:"nodes"`
}

var fresh = &consul.QueryOptions{RequireConsistent: true}

// Wanted reads the wanted drivers. Without a document there are none.
func (d Documents) Wanted(ctx context.Context) (driver.Wanted, error) {
	pair, _, err := d.KV.Get(d.Prefix+"/wanted", fresh.WithContext(ctx))
	if err != nil {
		return driver.Wanted{}, fmt.Errorf("Consul: %w", err)
	}
	if pair == nil {
		return driver.Wanted{Max: 1}, nil
	}
	w, err := driver.ParseWanted(pair.Value)
	if err != nil {
		return w, fmt.Errorf("%w: key %s: %w; replace it with aliquot node rollout <file>", ErrDocument,
			pair.Key, err)
	}
	return w, nil
}

// Slots reads the slots, and the document's index for check-and-set.
func (d Documents) Slots(ctx context.Context) (driver.Slots, uint64, error) {
	pair, _, err := d.KV.Get(d.Prefix+"/slots", fresh.WithContext(ctx))
	if err != nil {
		return driver.Slots{}, 0, fmt.Errorf("Consul: %w", err)
	}
	if pair == nil {
		return driver.Slots{}, 0, nil
	}
	s, err := driver.ParseSlots(pair.Value)
	if err != nil {
		return driver.Slots{}, pair.ModifyIndex,
			fmt.Errorf("%w: key %s: %w; aliquot node rollout -reset-slots replaces it", ErrDocument, pair.Key, err)
	}
	return s, pair.ModifyIndex, nil
}

// maxConflicts is the maximum number of attempts to write a document that others change meanwhile.
const maxConflicts = 20

// change changes the slots by check-and-set. change returns false if there is nothing to change any
// more.
func (d Documents) change(ctx context.Context, change func(driver.Slots) (driver.Slots, bool)) error {
	for range maxConflicts {
		slots, index, err := d.Slots(ctx)
		if err != nil {
			return err
		}
		slots, ok := change(slots)
		if !ok {
			return nil
		}
		done, err := d.cas(ctx, d.Prefix+"/slots", slots, index)
		if err != nil || done {
			return err
		}
	}
	return fmt.Errorf("key %s/slots in Consul: other writers changed it during each of %d attempts; try again",
		d.Prefix, maxConflicts)
}

func (d Documents) cas(ctx context.Context, key string, value any, index uint64) (bool, error) {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return false, err
	}
	done, _, err := d.KV.CAS(&consul.KVPair{Key: key, Value: text, ModifyIndex: index},
		(&consul.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return false, fmt.Errorf("Consul: %w", err)
	}
	return done, nil
}

// SetWanted replaces the wanted drivers. change returns the new document for the present one. If
// the present one cannot be parsed, change gets the error, and may refuse.
func (d Documents) SetWanted(ctx context.Context, change func(driver.Wanted, error) (driver.Wanted, error)) error {
	for range maxConflicts {
		pair, _, err := d.KV.Get(d.Prefix+"/wanted", fresh.WithContext(ctx))
		if err != nil {
			return fmt.Errorf("Consul: %w", err)
		}
		now, index := driver.Wanted{Max: 1}, uint64(0)
		var damaged error
		if pair != nil {
			index = pair.ModifyIndex
			if read, err := driver.ParseWanted(pair.Value); err == nil {
				now = read
			} else {
				damaged = fmt.Errorf("key %s/wanted: %w: %w", d.Prefix, ErrDocument, err)
			}
		}
		next, err := change(now, damaged)
		if err != nil {
			return err
		}
		if done, err := d.cas(ctx, d.Prefix+"/wanted", next, index); err != nil || done {
			return err
		}
	}
	return fmt.Errorf("key %s/wanted in Consul: other writers changed it during each of %d attempts; try again",
		d.Prefix, maxConflicts)
}

// ErrDocument is the error of a document that cannot be parsed.
var ErrDocument = errors.New("a document in Consul is invalid")

// ResetSlots replaces a document of slots that cannot be parsed by an empty one. Nodes with a
// change in progress take their slots again. It refuses if the document can be parsed.
func (d Documents) ResetSlots(ctx context.Context) error {
	_, index, err := d.Slots(ctx)
	if err == nil {
		return fmt.Errorf("the document of slots is valid: nothing was changed; free the slot of one node with " +
			"-free=<node>")
	}
	if !errors.Is(err, ErrDocument) {
		return err
	}
	done, err := d.cas(ctx, d.Prefix+"/slots", driver.Slots{}, index)
	if err == nil && !done {
		return fmt.Errorf("key %s/slots in Consul has changed in the meantime: not replaced; try again", d.Prefix)
	}
	return err
}

// InProgress returns the phase of a node with a change in progress, by name or ID. It returns "" if
// there is none, or no report.
func (d Documents) InProgress(ctx context.Context, node string) (driver.Phase, error) {
	s, err := d.Status(ctx)
	if err != nil {
		return "", err
	}
	for _, r := range s.Nodes {
		if (r.Node == node || r.ID == node) && r.Phase.Begun() {
			return r.Phase, nil
		}
	}
	return "", nil
}

// ErrNoSlot is the error for freeing the slot of a node that has none.
var ErrNoSlot = errors.New("holds no slot")

// Free removes a node, by name or ID, from the holders. It is for nodes that have failed or will
// never return.
func (d Documents) Free(ctx context.Context, node string) error {
	found := false
	err := d.change(ctx, func(s driver.Slots) (driver.Slots, bool) {
		found = false
		for id, h := range s.Holders {
			if h.Node == node || id == node {
				found = true
				s = s.Reset(id)
			}
		}
		return s, found
	})
	if err == nil && !found {
		return fmt.Errorf("node %q %w", node, ErrNoSlot)
	}
	return err
}

// Status reads the whole rollout.
func (d Documents) Status(ctx context.Context) (Status, error) {
	var s Status
	var err error
	if s.Wanted, err = d.Wanted(ctx); err != nil {
		return s, err
	}
	if s.Slots, _, err = d.Slots(ctx); err != nil {
		return s, err
	}
	pairs, _, err := d.KV.List(d.Prefix+"/nodes/", (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return s, fmt.Errorf("Consul: %w", err)
	}
	s.Nodes = []driver.NodeReport{}
	for _, p := range pairs {
		var r driver.NodeReport
		if err := json.Unmarshal(p.Value, &r); err != nil {
			return s, fmt.Errorf("key %s in Consul is not the report of a node: %w; delete it", p.Key, err)
		}
		s.Nodes = append(s.Nodes, r)
	}
	slices.SortFunc(s.Nodes, func(a, b driver.NodeReport) int { return strings.Compare(a.Node+a.ID, b.Node+b.ID) })
	return s, nil
}

// publish writes the node's report if it has changed. doing replaces the state's reason if it is
// not "". An error is only logged, because the next step publishes again.
func (a *Agent) publish(ctx context.Context, seen driver.Seen, doing string) {
	r := driver.NodeReport{
		Node: seen.Name, ID: seen.ID, Class: seen.Class, Phase: a.state.Phase, Why: a.state.Why, Trouble: seen.Trouble,
		Wanted:  a.state.Plan.Version,
		Drivers: seen.Facts.Drivers, GPUs: len(seen.Facts.GPUs), Since: a.state.Since,
	}
	if doing != "" {
		r.Why = doing
	}
	if want := seen.Wanted.For(seen.Class); r.Wanted == "" && want != nil {
		r.Wanted = want.Version
	}
	text, err := json.Marshal(r)
	if err != nil || string(text) == string(a.published) {
		return
	}
	key := a.docs.Prefix + "/nodes/" + seen.ID
	ctx, cancel := withTimeout(ctx, askTimeout)
	defer cancel()
	if _, err := a.docs.KV.Put(&consul.KVPair{Key: key, Value: text},
		(&consul.WriteOptions{}).WithContext(ctx)); err != nil {
		a.log.Warn("cannot write the node's report", "key", key, "error", err)
		return
	}
	a.published = text
}
