package watch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/account"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/query"
	"aliquot.example/internal/scale"
	"aliquot.example/ui/view"
)

// strategy is the plugin whose policies the page shows.
const strategy = "aliquot-strategy"

// readPolicies reads the scaling policies, and the learned speeds and cold starts for them.
func (w *Watch) readPolicies(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*answerTime)
	defer cancel()
	q := (&nomad.QueryOptions{Namespace: nomad.AllNamespacesNamespace}).WithContext(ctx)
	stubs, _, err := w.o.Nomad.Scaling().ListPolicies(q)
	if err != nil {
		w.source("Nomad's scaling policies", err)
		return
	}
	found := make([]*view.Policy, len(stubs))
	sideBySide(len(stubs), func(i int) {
		p, _, err := w.o.Nomad.Scaling().GetPolicy(stubs[i].ID,
			(&nomad.QueryOptions{Namespace: stubs[i].Target["Namespace"]}).WithContext(ctx))
		switch t := stubs[i].Target; {
		case err == nil:
			found[i] = policyOf(p)
		case !unknownToNomad(err): // keep the last one
			found[i] = w.policyOf(t["Namespace"], t["Job"], t["Group"])
		}
	})
	var policies []view.Policy
	for _, p := range found {
		if p != nil {
			w.addLearned(ctx, p)
			policies = append(policies, *p)
		}
	}
	w.source("Nomad's scaling policies", nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range policies {
		for _, old := range w.policies {
			if old.Namespace == policies[i].Namespace && old.Job == policies[i].Job && old.Group == policies[i].Group {
				policies[i].Count = old.Count
			}
		}
	}
	w.policies = policies
	w.signal()
}

// policyOf returns the known policy of a group, nil if there is none.
func (w *Watch) policyOf(namespace, job, group string) *view.Policy {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.policies {
		if p.Namespace == namespace && p.Job == job && p.Group == group {
			return &p
		}
	}
	return nil
}

// unknownToNomad reports whether err is a response 404 of Nomad.
func unknownToNomad(err error) bool {
	var answer nomad.UnexpectedResponseError
	return errors.As(err, &answer) && answer.StatusCode() == http.StatusNotFound
}

// policyOf converts a policy. It returns nil if the policy does not use aliquot-strategy.
func policyOf(p *nomad.ScalingPolicy) *view.Policy {
	for _, checks := range blocks(p.Policy["check"]) {
		for _, labelled := range checks {
			for _, check := range blocks(labelled) {
				text, _ := check["query"].(string)
				q, err := query.Parse(text)
				for _, s := range blocks(check["strategy"]) {
					if settings, ok := s[strategy]; ok && q.Service != "" {
						out := policyWith(p, q, settings)
						if err != nil {
							out.QueryProblem = fmt.Sprintf("its query %q: %v", text, err)
						}
						window, _ := check["query_window"].(string)
						out.Window, _ = time.ParseDuration(window)
						return out
					}
				}
			}
		}
	}
	return nil
}

func policyWith(p *nomad.ScalingPolicy, q query.Query, settings any) *view.Policy {
	out := &view.Policy{
		Namespace: p.Target["Namespace"], Job: p.Target["Job"], Group: p.Target["Group"], Service: q.Service, Query: q,
		Enabled: p.Enabled == nil || *p.Enabled, Settings: map[string]string{},
	}
	if p.Min != nil {
		out.Min = int(*p.Min)
	}
	if p.Max != nil {
		out.Max = int(*p.Max)
	}
	for _, of := range blocks(settings) {
		for k, v := range of {
			if text := fmt.Sprint(v); v != nil && text != "" {
				out.Settings[k] = text
			}
		}
	}
	return out
}

// blocks returns HCL blocks, which Nomad returns as a JSON object or a list of objects, with labels
// as keys.
func blocks(v any) []map[string]any {
	switch v := v.(type) {
	case map[string]any:
		return []map[string]any{v}
	case []any:
		var out []map[string]any
		for _, one := range v {
			out = append(out, blocks(one)...)
		}
		return out
	case []map[string]any:
		return v
	}
	return nil
}

// addLearned adds the learned speeds and the cold start of a policy's service. While Consul does not
// answer, it keeps the last values.
func (w *Watch) addLearned(ctx context.Context, p *view.Policy) {
	if w.o.Consul == nil {
		return
	}
	old := w.policyOf(p.Namespace, p.Job, p.Group)
	if old == nil || old.Service != p.Service {
		old = &view.Policy{SpeedsFor: scale.Always}
	}
	now, q := time.Now(), (&consul.QueryOptions{}).WithContext(ctx)
	p.Rates, p.Slots, p.SpeedsFor = nil, nil, scale.Always
	pair, _, err := w.o.Consul.KV().Get("aliquot/speed/"+p.Service, q)
	if err != nil {
		p.Rates, p.Slots, p.SpeedsFor = old.Rates, old.Slots, old.SpeedsFor
	} else if pair != nil {
		if doc, err := learned.ParseSpeeds(pair.Value); err == nil {
			p.Rates, p.SpeedsFor = doc.At(now)
			p.Slots = doc.SlotsAt(now)
		}
	}
	p.ColdStart = 0
	if pair, _, err = w.o.Consul.KV().Get(learned.StartsKey(p.Service), q); err != nil {
		p.ColdStart = old.ColdStart
	} else if pair != nil {
		if doc, err := learned.ParseStarts(pair.Value); err == nil {
			p.ColdStart, _ = doc.P95(now)
		}
	}
}

// readChanges reads counts and scaling actions: every time for jobs that a browser shows, and about
// every tenth time for the others.
func (w *Watch) readChanges(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	type job struct{ namespace, id string }
	w.mu.Lock()
	jobs := map[job]bool{}
	for i, p := range w.policies {
		if w.followed[p.Service] > 0 || w.followed[""] > 0 || (time.Now().Unix()+int64(i))%10 == 0 {
			jobs[job{p.Namespace, p.Job}] = true
		}
	}
	w.mu.Unlock()
	var list []job
	for j := range jobs {
		list = append(list, j)
	}
	sideBySide(len(list), func(i int) {
		status, _, err := w.o.Nomad.Jobs().ScaleStatus(list[i].id,
			(&nomad.QueryOptions{Namespace: list[i].namespace}).WithContext(ctx))
		if err == nil {
			w.keepChanges(list[i].namespace, status)
		}
	})
}

func (w *Watch) keepChanges(namespace string, status *nomad.JobScaleStatusResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := time.Now().Add(-keptEvents)
	counts, events := w.keepCounts(namespace, status), w.keepEvents(namespace, status, old)
	for key, c := range w.changes {
		if c.At.Before(old) {
			delete(w.changes, key)
		}
	}
	if counts || events {
		w.signal()
	}
}

// keepCounts takes the counts of a job's groups; it reports whether one is new. Entered with
// the lock held.
func (w *Watch) keepCounts(namespace string, status *nomad.JobScaleStatusResponse) (changed bool) {
	for i, p := range w.policies {
		if g, ok := status.TaskGroups[p.Group]; ok && p.Job == status.JobID && p.Namespace == namespace &&
			p.Count != g.Desired {
			next := append([]view.Policy(nil), w.policies...)
			next[i].Count = g.Desired
			w.policies, changed = next, true
		}
	}
	return changed
}

// keepEvents takes the scaling actions of a job from a time on; it reports whether one is new.
// Entered with the lock held.
func (w *Watch) keepEvents(namespace string, status *nomad.JobScaleStatusResponse, from time.Time) (changed bool) {
	for name, g := range status.TaskGroups {
		for _, e := range g.Events {
			at := time.Unix(0, int64(e.Time))
			key := change{namespace, status.JobID, name, at.UnixNano()}
			if _, known := w.changes[key]; known || e.Count == nil || at.Before(from) ||
				*e.Count == e.PreviousCount && !e.Error {
				continue
			}
			w.changes[key] = view.Change{At: at, Namespace: namespace, Job: status.JobID, Group: name,
				From: int(e.PreviousCount), To: int(*e.Count), Reason: e.Message,
				Failed: e.Error}.With(e.Meta["aliquot.demand"])
			changed = true
		}
	}
	return changed
}

// readDemand reads the typical demand, which determines the stranded capacity.
func (w *Watch) readDemand(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	demand, _, err := account.Demand(ctx, "", w.o.Consul)
	if err != nil {
		return // keep the last one
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.demand = demand
	w.draw()
}
