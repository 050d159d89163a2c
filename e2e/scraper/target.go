package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

type target struct {
	Labels map[string]string `json:"labels"`
	URL    string            `json:"scrapeUrl"`
	Health string            `json:"health"`
	Error  string            `json:"lastError"`
}

// targets asks Consul for the instances of a job's services and relabels them.
func (j job) targets() (found []target, err error) {
	for _, sd := range j.Consul {
		client, err := consul.NewClient(&consul.Config{Address: sd.Server})
		if err != nil {
			return nil, err
		}
		for _, service := range sd.Services {
			instances, _, err := client.Catalog().ServiceMultipleTags(service, sd.Tags, nil)
			if err != nil {
				return nil, err
			}
			for _, instance := range instances {
				found = append(found, j.target(instance))
			}
		}
	}
	return found, nil
}

func (j job) target(in *consul.CatalogService) target {
	host := in.ServiceAddress
	if host == "" {
		host = in.Address
	}
	labels := map[string]string{
		"job": j.Name, "__address__": fmt.Sprintf("%s:%d", host, in.ServicePort),
		"__meta_consul_address": in.Address, "__meta_consul_node": in.Node,
	}
	for key, value := range in.ServiceMeta {
		labels["__meta_consul_service_metadata_"+key] = value
	}
	for _, r := range j.Relabel {
		r.apply(labels)
	}
	path := j.Path
	if path == "" {
		path = "/metrics"
	}
	t := target{URL: (&url.URL{Scheme: "http", Host: labels["__address__"], Path: path,
		RawQuery: url.Values(j.Params).Encode()}).String()}
	t.Labels = map[string]string{"instance": labels["__address__"]}
	for name, value := range labels {
		if !strings.HasPrefix(name, "__") {
			t.Labels[name] = value
		}
	}
	return t
}

// scrape reads the target's metrics and adds the names of their series.
func (t *target) scrape(names map[string]bool) {
	t.Health = "down"
	client := &http.Client{Timeout: 5 * time.Second}
	response, err := client.Get(t.URL)
	if err != nil {
		t.Error = err.Error()
		return
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Error = "server returned HTTP status " + response.Status
		return
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Error = err.Error()
		return
	}
	t.Health = "up"
	for name, family := range families {
		switch family.GetType().String() {
		case "HISTOGRAM":
			names[name+"_bucket"] = true
			fallthrough
		case "SUMMARY":
			names[name+"_sum"], names[name+"_count"] = true, true
		}
		if t := family.GetType().String(); t != "HISTOGRAM" {
			names[name] = true
		}
	}
}
