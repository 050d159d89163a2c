package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/api"
	"aliquot.example/ui/view"
)

// watchGateways watches the gateways in Consul. While Consul does not answer, the last known gateways
// stay.
func (w *Watch) watchGateways(ctx context.Context) {
	w.follow(ctx, "Consul", func(ctx context.Context, index uint64) (uint64, error) {
		q := (&consul.QueryOptions{WaitIndex: index, WaitTime: blockingWait}).WithContext(ctx)
		if index == 0 {
			q.WaitTime = time.Millisecond
		}
		entries, meta, err := w.o.Consul.Health().Service(api.GatewayService, "", true, q)
		if err != nil {
			return 0, err
		}
		found := map[string]string{}
		for _, e := range entries {
			if e == nil || e.Service == nil {
				continue
			}
			if admin := e.Service.Meta[api.MetaAdmin]; admin != "" {
				found[e.Service.ID] = admin
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.gateways = found
		w.signal()
		return meta.LastIndex, nil
	})
}

const gatewayPrefix = "gateway "

func sourceOf(admin string) string { return gatewayPrefix + admin }

// readGateways asks every gateway for its services, and for the series of the services that a browser
// shows.
func (w *Watch) readGateways(ctx context.Context) {
	w.mu.Lock()
	admins := w.admins()
	w.mu.Unlock()
	w.forgetGateways(admins)
	answers := make([][]api.Service, len(admins))
	errs := make([]error, len(admins))
	sideBySide(len(admins), func(i int) {
		asking, cancel := context.WithTimeout(ctx, w.timeFor(sourceOf(admins[i])))
		defer cancel()
		if errs[i] = w.get(asking, admins[i], "/v1/services", &answers[i]); errs[i] != nil {
			answers[i] = nil // an invalid response may be decoded in part
		}
		w.source(sourceOf(admins[i]), errs[i])
	})
	if !slices.Contains(errs, nil) {
		return // keep the old state; the page says that no gateway answers
	}
	followed := w.takeServices(merge(admins, answers))
	if errors.Join(errs...) == nil { // otherwise a part would be missing from the sums
		sideBySide(len(followed), func(i int) { w.readSeries(ctx, admins, followed[i]) })
	}
	w.decide(followed)
}

// takeServices stores the services, and returns those that a browser shows.
func (w *Watch) takeServices(services []view.Service) (followed []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.services = services
	f := view.Facts{Allocs: w.shown, Policies: w.policies, Services: services}
	now := time.Now().Unix()
	for name, by := range view.Stands(f) {
		w.memoryOf(name).Count(now, by)
	}
	followed = w.followedServices()
	maps.DeleteFunc(w.served, func(name string, _ map[string]int) bool { return !slices.Contains(followed, name) })
	maps.DeleteFunc(w.memory, func(name string, m *view.Memory) bool {
		return !hasService(services, name) && m.Newest() < now-view.Depth
	})
	w.signal()
	return followed
}

// admins returns the admin addresses of all gateways. The caller holds w.mu.
func (w *Watch) admins() []string {
	admins := append(slices.Collect(maps.Values(w.gateways)), w.o.Gateways...)
	slices.Sort(admins)
	return slices.Compact(admins)
}

// timeFor returns the timeout for a gateway. It is shorter for one that did not answer last time, so
// that it does not delay the others.
func (w *Watch) timeFor(source string) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sources[source].Problem != "" {
		return pollInterval
	}
	return answerTime
}

// followedServices returns the existing services that a browser shows. The caller holds w.mu.
func (w *Watch) followedServices() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(w.followed)), func(name string) bool {
		return !hasService(w.services, name)
	})
}

// hasService reports whether a service is in a list sorted by name.
func hasService(services []view.Service, name string) bool {
	_, found := slices.BinarySearchFunc(services, name, func(s view.Service, name string) int {
		return strings.Compare(s.Name, name)
	})
	return found
}

// forgetGateways removes the sources of gateways that no longer exist.
func (w *Watch) forgetGateways(admins []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.sources, func(name string, _ view.Source) bool {
		admin, ok := strings.CutPrefix(name, gatewayPrefix)
		return ok && !slices.Contains(admins, admin)
	})
}

// memoryOf returns the memory of a service. The caller holds w.mu.
func (w *Watch) memoryOf(service string) *view.Memory {
	m := w.memory[service]
	if m == nil {
		m = &view.Memory{}
		w.memory[service] = m
	}
	return m
}

// readSeries reads the new seconds of a service's series from the gateways.
func (w *Watch) readSeries(ctx context.Context, admins []string, service string) {
	w.mu.Lock()
	last := w.memoryOf(service).Last()
	w.mu.Unlock()
	now := time.Now().Unix()
	window := min(max(now-last+2, 3), view.Depth)
	points, latencies := make([]api.Concurrency, len(admins)), make([]api.Latencies, len(admins))
	errs := make([]error, 2*len(admins))
	sideBySide(len(admins), func(i int) {
		path := "/v1/services/" + url.PathEscape(service)
		errs[2*i] = w.get(ctx, admins[i], fmt.Sprintf("%s/concurrency?window=%ds", path, window), &points[i])
		errs[2*i+1] = w.get(ctx, admins[i], fmt.Sprintf("%s/latency?window=%ds", path, window+view.Lookback),
			&latencies[i])
	})
	if err := errors.Join(errs...); err != nil && !allUnknown(errs) {
		return // a part of the sum is missing: leave a gap until all answer or Consul drops a gateway
	}
	spreads, err := view.SpreadsOf(latencies, now-window, now)
	if err != nil && w.o.Log != nil {
		w.o.Log.Warn("cannot decode the latencies of a gateway", "service", service, "error", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.served[service] = view.ServedOf(latencies, now)
	w.memoryOf(service).FillSpreads(spreads)
	w.memoryOf(service).Answered(min(now, view.AnsweredBy(points)))
	w.memoryOf(service).Fill(around(now, view.MergeSeries(points)))
	w.signal()
}

// around drops seconds that are more than Depth from now: those of a gateway with a wrong clock would
// keep out the seconds of others.
func around(now int64, points []api.Point) []api.Point {
	return slices.DeleteFunc(points, func(p api.Point) bool {
		return p.Time < now-view.Depth || p.Time > now+view.Depth
	})
}

// errUnknown means that a gateway does not have the service.
var errUnknown = errors.New("the gateway does not know the service")

// allUnknown reports whether all errors are errUnknown.
func allUnknown(errs []error) bool {
	for _, err := range errs {
		if err != nil && !errors.Is(err, errUnknown) {
			return false
		}
	}
	return true
}

func (w *Watch) get(ctx context.Context, admin, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+path, nil)
	if err != nil {
		return err
	}
	answer, err := w.http.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
		return json.NewDecoder(answer.Body).Decode(into)
	case http.StatusNotFound:
		return errUnknown
	}
	return fmt.Errorf("%s answers %s", path, answer.Status)
}

// merge combines the services of several gateways. Requests add up, also those of each replica.
// Other data of replicas comes from the owner of the service; without an owner, all gateways report
// the same.
func merge(admins []string, answers [][]api.Service) []view.Service {
	all := map[string]*view.Service{}
	decided := map[string]bool{}
	for i, list := range answers {
		for _, g := range list {
			s := all[g.Service]
			if s == nil {
				s = &view.Service{Name: g.Service, Active: map[string]int{}}
				all[g.Service] = s
			}
			s.Gateways = append(s.Gateways, admins[i])
			s.Queued += g.Queued
			s.Waits = withWaits(s.Waits, g.Waits)
			for class, n := range g.Active {
				s.Active[class] += n
			}
			if g.Tokens != nil {
				if s.Tokens == nil {
					s.Tokens = &api.Tokens{}
				}
				s.Tokens.Add(g.Tokens)
			}
			switch {
			case g.Role == owner:
				s.Replicas, decided[g.Service] = g.Replicas, true
			case !decided[g.Service] && g.Role == "":
				s.Replicas = joined(s.Replicas, g.Replicas)
			case !decided[g.Service] && len(s.Replicas) == 0:
				s.Replicas = g.Replicas
			}
		}
	}
	addUpActive(all, answers)
	out := make([]view.Service, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, *all[name])
	}
	return out
}

// withWaits adds up waiting requests. If gateways share their queues, only one of them reports them.
func withWaits(sum, more []api.Wait) []api.Wait {
	for _, w := range more {
		if i := slices.IndexFunc(sum, func(o api.Wait) bool {
			return o.Priority == w.Priority && o.Tenant == w.Tenant
		}); i >= 0 {
			sum[i].Requests += w.Requests
		} else {
			sum = append(sum, w)
		}
	}
	return sum
}

// addUpActive sets each replica's active requests to the sum over all gateways.
func addUpActive(all map[string]*view.Service, answers [][]api.Service) {
	type replica struct{ service, id string }
	active := map[replica]int{}
	for _, list := range answers {
		for _, g := range list {
			for _, r := range g.Replicas {
				active[replica{g.Service, r.ID}] += r.Active
			}
		}
	}
	for name, s := range all {
		s.Replicas = slices.Clone(s.Replicas)
		for i := range s.Replicas {
			s.Replicas[i].Active = active[replica{name, s.Replicas[i].ID}]
		}
	}
}

// owner is the role of the gateway that dispatches a service's requests.
const owner = "owner"

func joined(a, b []api.Replica) []api.Replica {
	out := slices.Clone(a)
	for _, r := range b {
		if !slices.ContainsFunc(out, func(o api.Replica) bool { return o.ID == r.ID }) {
			out = append(out, r)
		}
	}
	return out
}

// readSplits reads the splitters of the services that a browser shows, and drops the rest.
func (w *Watch) readSplits(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	w.mu.Lock()
	followed := w.followedServices()
	maps.DeleteFunc(w.splits, func(name string, _ map[string]float64) bool { return !slices.Contains(followed, name) })
	w.mu.Unlock()
	for _, service := range followed {
		entry, _, err := w.o.Consul.ConfigEntries().Get(consul.ServiceSplitter, service,
			(&consul.QueryOptions{}).WithContext(ctx))
		var status consul.StatusError
		found := map[string]float64{}
		switch splitter, ok := entry.(*consul.ServiceSplitterConfigEntry); {
		case errors.As(err, &status) && status.Code == http.StatusNotFound:
		case err != nil:
			continue // keep the last one; watchGateways reports that Consul does not answer
		case ok:
			for _, s := range splitter.Splits {
				found[s.ServiceSubset] += float64(s.Weight)
			}
		}
		w.mu.Lock()
		w.splits[service] = found
		w.mu.Unlock()
	}
}
