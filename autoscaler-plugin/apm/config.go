package apm

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"aliquot.example/autoscaler-plugin/settings"
	"aliquot.example/autoscaler-plugin/speed"
	"aliquot.example/internal/api"
	"aliquot.example/internal/learned"
)

// config is the plugin's settings in the agent's configuration.
type config struct {
	// gateways are fixed admin addresses. It is nil to find gateways in Consul.
	gateways       []string
	gatewayService string
	rates          string
	// prometheus is the URL of a Prometheus server, "" to query the gateways directly.
	prometheus      string
	prometheusToken string // path of a file
	step            time.Duration
	staleAfter      time.Duration
	timeout         time.Duration
	// learnSpeed means that measured speeds are read from Consul.
	learnSpeed bool
}

func readConfig(given map[string]string) (config, error) {
	c := config{gatewayService: api.GatewayService, rates: learned.RatesPrefix, step: 5 * time.Second,
		staleAfter: 10 * time.Second, timeout: 2 * time.Second}
	durations := map[string]*time.Duration{"prometheus_step": &c.step, "stale_after": &c.staleAfter,
		"timeout": &c.timeout}
	texts := map[string]*string{
		"gateway_service": &c.gatewayService, "rates_prefix": &c.rates,
		"prometheus_address": &c.prometheus, "prometheus_token_file": &c.prometheusToken,
	}
	names := append([]string{"gateways", speed.Setting}, settings.ConsulSettings...)
	for name, to := range durations {
		names = append(names, name)
		if given[name] == "" {
			continue
		}
		d, err := time.ParseDuration(given[name])
		if err != nil || d < time.Second || d > time.Hour {
			return c, fmt.Errorf("%s is %q: want a duration from 1s to 1h", name, given[name])
		}
		*to = d
	}
	for name, to := range texts {
		names = append(names, name)
		if given[name] != "" {
			*to = given[name]
		}
	}
	if err := settings.Known(given, names...); err != nil {
		return c, err
	}
	var err error
	if c.learnSpeed, err = speed.Wanted(given); err != nil {
		return c, err
	}
	if given["gateways"] != "" {
		c.gateways = strings.FieldsFunc(given["gateways"], func(r rune) bool { return r == ',' || r == ' ' })
	}
	return c, c.checkPrometheus()
}

func (c *config) checkPrometheus() error {
	if c.prometheus == "" {
		return nil
	}
	if u, err := url.Parse(c.prometheus); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("prometheus_address is %q: want a URL such as http://prometheus.example:9090", c.prometheus)
	}
	if c.gateways != nil {
		return fmt.Errorf("gateways and prometheus_address are both set: set only one source of demand")
	}
	if c.prometheusToken != "" {
		if _, err := os.Stat(c.prometheusToken); err != nil {
			return fmt.Errorf("prometheus_token_file: %w", err)
		}
	}
	return nil
}
