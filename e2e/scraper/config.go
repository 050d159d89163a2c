package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// duration matches a Prometheus duration with a single unit.
var duration = regexp.MustCompile(`^[0-9]+(ms|s|m|h|d|w|y)$`)

type config struct {
	Global struct {
		Interval string `yaml:"scrape_interval"`
	} `yaml:"global"`
	Jobs []job `yaml:"scrape_configs"`

	every time.Duration
}

type job struct {
	Name    string              `yaml:"job_name"`
	Path    string              `yaml:"metrics_path"`
	Params  map[string][]string `yaml:"params"`
	Consul  []consulSD          `yaml:"consul_sd_configs"`
	Relabel []relabel           `yaml:"relabel_configs"`
}

type consulSD struct {
	Server   string   `yaml:"server"`
	Services []string `yaml:"services"`
	Tags     []string `yaml:"tags"`
}

// relabel replaces a label, which is the only action that the job uses.
type relabel struct {
	Sources     []string `yaml:"source_labels"`
	Regex       string   `yaml:"regex"`
	Target      string   `yaml:"target_label"`
	Replacement *string  `yaml:"replacement"`

	expression *regexp.Regexp
}

func load(path string) (config, error) {
	var c config
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	reader := yaml.NewDecoder(bytes.NewReader(text))
	reader.KnownFields(true)
	if err := reader.Decode(&c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	if c.every, err = time.ParseDuration(c.Global.Interval); err != nil || c.every <= 0 {
		return c, fmt.Errorf("%s: scrape_interval is %q: want a duration", path, c.Global.Interval)
	}
	if len(c.Jobs) == 0 {
		return c, fmt.Errorf("%s: no scrape_configs", path)
	}
	seen := map[string]bool{}
	for i := range c.Jobs {
		j := &c.Jobs[i]
		if err := j.check(); err != nil {
			return c, fmt.Errorf("%s: job %q: %w", path, j.Name, err)
		}
		if seen[j.Name] {
			return c, fmt.Errorf("%s: job %q is defined twice", path, j.Name)
		}
		seen[j.Name] = true
	}
	return c, nil
}

func (j *job) check() (err error) {
	if j.Name == "" || len(j.Consul) == 0 {
		return fmt.Errorf("want a job_name and consul_sd_configs")
	}
	for _, sd := range j.Consul {
		if sd.Server == "" || len(sd.Services) == 0 {
			return fmt.Errorf("want a server and services in consul_sd_configs")
		}
	}
	for i := range j.Relabel {
		r := &j.Relabel[i]
		if len(r.Sources) == 0 || r.Target == "" {
			return fmt.Errorf("want source_labels and a target_label in relabel_configs")
		}
		if r.Regex == "" {
			r.Regex = "(.*)"
		}
		if r.expression, err = regexp.Compile("^(?:" + r.Regex + ")$"); err != nil {
			return err
		}
	}
	return nil
}

// apply does as Prometheus does: labels that do not match stay unchanged, and an empty value
// removes the label.
func (r relabel) apply(labels map[string]string) {
	var values []string
	for _, name := range r.Sources {
		values = append(values, labels[name])
	}
	value := strings.Join(values, ";")
	match := r.expression.FindStringSubmatchIndex(value)
	if match == nil {
		return
	}
	replacement := "$1"
	if r.Replacement != nil {
		replacement = *r.Replacement
	}
	if result := r.expression.ExpandString(nil, replacement, value, match); len(result) > 0 {
		labels[r.Target] = string(result)
	} else {
		delete(labels, r.Target)
	}
}
