package profiler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Server is the model server that is measured.
type Server struct {
	// URL is where it is, such as http://10.0.0.5:8000.
	URL string
	// Model is the model that is asked for, "" for the first that the server has.
	Model string
	// Key is the API key, "" for none. It is sent to the server and shown nowhere.
	Key  string
	HTTP *http.Client
	// Stall is after how long without a byte a request is given up.
	Stall time.Duration
	// Metrics reads the engine's metrics, nil for an engine whose are not known.
	Metrics func(io.Reader) (Engine, error)
}

// Engine is what the metrics of an engine say; a number that they do not say is -1.
type Engine struct {
	Kind        string  `json:"kind,omitempty"`
	Running     int     `json:"-"`
	Waiting     int     `json:"-"`
	KVTokens    int     `json:"kv_tokens"`
	Preemptions float64 `json:"-"`
}

// About is what a server says of itself.
type About struct {
	Model   string `json:"model"`
	Version string `json:"version,omitempty"`
	Context int    `json:"context,omitempty"` // most tokens of prompt and answer, 0 where it does not say
	Engine  Engine `json:"engine"`
}

const (
	// aside bounds a request beside the measured ones, and mostAside its answer.
	aside     = 10 * time.Second
	mostAside = 16 << 20
)

// look reads one of the server's pages; status is 0 where there was no answer.
func (s *Server) look(ctx context.Context, path string, read func(io.Reader) error) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, aside)
	defer cancel()
	r, err := s.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, err
	}
	res, err := s.HTTP.Do(r)
	if err != nil {
		return 0, plain(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return res.StatusCode, fmt.Errorf("%s answers %s", path, res.Status)
	}
	return res.StatusCode, read(io.LimitReader(res.Body, mostAside))
}

func (s *Server) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.URL, "/")+path, body)
	if err != nil {
		return nil, err
	}
	if s.Key != "" {
		r.Header.Set("Authorization", "Bearer "+s.Key)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

// plain is an error of the transport without the URL that the caller names anyway.
func plain(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// About asks the server what it is. Only a server that does not answer at all, or has
// not the model, is an error: few say everything.
func (s *Server) About(ctx context.Context) (About, error) {
	a := About{Model: s.Model, Engine: Engine{Running: -1, Waiting: -1, KVTokens: -1, Preemptions: -1}}
	var list models
	status, err := s.look(ctx, "/v1/models", list.read)
	if status == 0 && err != nil {
		return a, fmt.Errorf("%s: %w: is the server up, and is this its address?", s.URL, err)
	}
	if err == nil {
		if err := list.choose(&a); err != nil {
			return a, fmt.Errorf("%s: %w", s.URL, err)
		}
	}
	_, _ = s.look(ctx, "/version", func(r io.Reader) error {
		var v struct{ Version string }
		err := json.NewDecoder(r).Decode(&v)
		a.Version = printable(v.Version)
		return err
	})
	if s.Metrics != nil {
		_, _ = s.look(ctx, "/metrics", func(r io.Reader) (err error) {
			e, err := s.Metrics(r)
			if err == nil {
				a.Engine = e
			}
			return err
		})
	}
	return a, nil
}

// Await waits until the server answers, at most for a time. It fails where it does not;
// a time of 0 waits for nothing.
func (s *Server) Await(ctx context.Context, most time.Duration) error {
	if most <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		status, err := s.look(ctx, "/v1/models", func(io.Reader) error { return nil })
		switch {
		case status != 0 && status != http.StatusServiceUnavailable && status != http.StatusBadGateway:
			return nil // it serves, whatever it thinks of the question
		case ctx.Err() != nil:
			return fmt.Errorf("%s did not answer within %s: %w", s.URL, most, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// models is the answer of /v1/models.
type models struct {
	Data []struct {
		ID      string `json:"id"`
		Longest int    `json:"max_model_len"`
	} `json:"data"`
}

func (m *models) read(r io.Reader) error { return json.NewDecoder(r).Decode(m) }

func (m *models) choose(a *About) error {
	var names []string
	for _, one := range m.Data {
		if a.Model == "" || one.ID == a.Model {
			a.Model, a.Context = one.ID, max(0, one.Longest)
			return nil
		}
		names = append(names, printable(one.ID))
	}
	if len(names) > 0 {
		return fmt.Errorf("there is no model %q: the server has %s", a.Model, strings.Join(names, ", "))
	}
	return nil
}

// longestName bounds a name that a server gives itself.
const longestName = 120

// printable is a server's text as it may be shown in one line.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > longestName {
		text = strings.ToValidUTF8(text[:longestName], "") + "…"
	}
	return text
}
