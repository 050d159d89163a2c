package top

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/api"
)

// Gateways returns a function that asks all healthy gateways for their services at the same time,
// and sums the responses.
func Gateways(client *consul.Client) func(context.Context) ([]Service, error) {
	return func(ctx context.Context) ([]Service, error) {
		entries, _, err := client.Health().Service(api.GatewayService, "", true,
			(&consul.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("cannot ask Consul for gateways: %w", err)
		}
		all, errs := make([][]api.Service, len(entries)), make([]error, len(entries))
		var asked sync.WaitGroup
		for i, e := range entries {
			admin := e.Service.Meta[api.MetaAdmin]
			if admin == "" {
				errs[i] = fmt.Errorf("gateway %s has no admin address in its meta", e.Service.ID)
				continue
			}
			asked.Go(func() { all[i], errs[i] = ask(ctx, "http://"+admin+"/v1/services") })
		}
		asked.Wait()
		return merge(all), errors.Join(errs...)
	}
}

func ask(ctx context.Context, url string) ([]api.Service, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, answer.Status)
	}
	var list []api.Service
	if err := json.NewDecoder(answer.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return list, nil
}

// merge combines the responses of several gateways. It adds up queues and requests, but not
// replicas, which all gateways share. If gateways share their queues, only the owner knows the
// replicas' rates.
func merge(answers [][]api.Service) []Service {
	m := merged{services: map[string]*Service{}, classes: map[classKey]*Class{}}
	owned := owned(answers)
	for _, list := range answers {
		replicas := map[classKey]Class{}
		for _, g := range list {
			m.add(g)
			if !owned[g.Service] || g.Role == owner {
				countReplicas(replicas, g)
			}
		}
		m.take(replicas)
	}
	return m.list()
}

// classKey names a class of a service.
type classKey struct{ service, class string }

// merged accumulates the responses of gateways.
type merged struct {
	services map[string]*Service
	classes  map[classKey]*Class
}

func (m merged) class(k classKey) *Class {
	if m.classes[k] == nil {
		m.classes[k] = &Class{Name: k.class}
	}
	return m.classes[k]
}

// add adds a service's requests at one gateway.
func (m merged) add(g api.Service) {
	s := m.services[g.Service]
	if s == nil {
		s = &Service{Name: g.Service}
		m.services[g.Service] = s
	}
	s.Queued += float64(g.Queued)
	for class, c := range g.Starts {
		s.learns(class, c)
	}
	s.Quantile = max(s.Quantile, g.Quantile)
	if g.Tokens != nil {
		if s.Tokens == nil {
			s.Tokens = &api.Tokens{}
		}
		s.Tokens.Add(g.Tokens)
	}
	for name, n := range g.Active {
		s.Active += float64(n)
		m.class(classKey{g.Service, name}).Active += float64(n)
	}
}

// countReplicas adds the replicas of a service that one gateway knows to by.
func countReplicas(by map[classKey]Class, g api.Service) {
	for _, r := range g.Replicas {
		k := classKey{g.Service, r.Class}
		c := by[k]
		c.Replicas++
		c.Slots += r.Slots
		c.Rate += r.Rate
		if r.Sleep == "asleep" {
			c.Asleep++
		}
		by[k] = c
	}
}

// take merges the replicas of one gateway, which other gateways may report too.
func (m merged) take(replicas map[classKey]Class) {
	for k, c := range replicas {
		total := m.class(k)
		total.Replicas, total.Slots = max(total.Replicas, c.Replicas), max(total.Slots, c.Slots)
		total.Asleep = max(total.Asleep, c.Asleep)
		total.Rate = max(total.Rate, c.Rate/float64(c.Replicas))
	}
}

func (m merged) list() []Service {
	var out []Service
	for name, s := range m.services {
		for k, c := range m.classes {
			if k.service == name {
				s.Classes = append(s.Classes, *c)
			}
		}
		out = append(out, *s)
	}
	return out
}

// owner is the role of the gateway that dispatches a service's requests.
const owner = "owner"

// owned returns the services that have an owner.
func owned(answers [][]api.Service) map[string]bool {
	out := map[string]bool{}
	for _, list := range answers {
		for _, g := range list {
			if g.Role == owner {
				out[g.Service] = true
			}
		}
	}
	return out
}
