// Command scraper stands in for Prometheus in tests. It takes the flags of
// jobs/prometheus.nomad.hcl, reads the configuration that the job renders and scrapes the targets
// in it. It stores only the names of metrics. It rejects unknown flags and unknown configuration.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

func main() {
	file := flag.String("config.file", "", "configuration")
	address := flag.String("web.listen-address", "", "where the API listens")
	flag.String("storage.tsdb.path", "", "taken and not used")
	retention := flag.String("storage.tsdb.retention.time", "15d", "checked and not used")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("unexpected argument %q", flag.Arg(0))
	}
	if !duration.MatchString(*retention) {
		log.Fatalf("--storage.tsdb.retention.time=%s: want a duration such as 15d", *retention)
	}
	config, err := load(*file)
	if err != nil {
		log.Fatal(err)
	}
	s := &state{names: map[string]bool{}}
	go s.scrape(config)
	http.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	http.HandleFunc("GET /api/v1/targets", s.showTargets)
	http.HandleFunc("GET /api/v1/label/__name__/values", s.showNames)
	log.Fatal(http.ListenAndServe(*address, nil))
}

// state is the result of the last round. The answers from it have the format of Prometheus's.
type state struct {
	mu      sync.Mutex
	targets []target
	names   map[string]bool
}

func (s *state) scrape(c config) {
	for {
		var found []target
		for _, job := range c.Jobs {
			targets, err := job.targets()
			if err != nil {
				log.Printf("%s: %v", job.Name, err)
			}
			found = append(found, targets...)
		}
		names := map[string]bool{}
		for i := range found {
			found[i].scrape(names)
		}
		s.mu.Lock()
		s.targets = found
		maps.Copy(s.names, names)
		s.mu.Unlock()
		time.Sleep(c.every)
	}
}

func (s *state) showTargets(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer(w, map[string]any{"activeTargets": s.targets})
}

func (s *state) showNames(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer(w, slices.Sorted(maps.Keys(s.names)))
}

func answer(w http.ResponseWriter, data any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": data})
}
