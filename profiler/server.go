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

// Server is the model server to measure.
type Server struct {
	// URL is the server's address, such as http://10.0.0.5:8000.
	URL string
	// Model is the model to request, "" for the first one that the server lists.
	Model string
	// Key is the API key, "" for none. It is sent to the server and never shown.
	Key  string
	HTTP *http.Client
	// Stall is how long a request may go without receiving a byte.
	Stall time.Duration
	// Metrics parses the engine's metrics. It is nil for an unknown engine.
	Metrics func(io.Reader) (Engine, error)
}

// Engine is what an engine's metrics report. A missing number is -1.
type Engine struct {
	Kind        string  `json:"kind,omitempty"`
	Running     int     `json:"-"`
	Waiting     int     `json:"-"`
	KVTokens    int     `json:"kv_tokens"`
	Preemptions float64 `json:"-"`
}

// About is what a server reports about itself.
type About struct {
	Model   string `json:"model"`
	Version string `json:"version,omitempty"`
	Context int    `json:"context,omitempty"` // limit of prompt and response tokens, 0 if unknown
	Engine  Engine `json:"engine"`
}

const (
	// sideTimeout is the time limit of a request that is not measured, and maxSideBody the maximum size of
	// its response.
	sideTimeout = 10 * time.Second
	maxSideBody = 16 << 20
)

// get reads one of the server's pages. status is 0 if there was no response.
func (s *Server) get(ctx context.Context, path string, read func(io.Reader) error) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, sideTimeout)
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
	return res.StatusCode, read(io.LimitReader(res.Body, maxSideBody))
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

// plain removes the URL from a transport error. The caller's message has it anyway.
func plain(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// About asks the server about itself. It fails only if the server does not respond or does not have
// the model, because few servers report everything.
func (s *Server) About(ctx context.Context) (About, error) {
	a := About{Model: s.Model, Engine: Engine{Running: -1, Waiting: -1, KVTokens: -1, Preemptions: -1}}
	var list models
	status, err := s.get(ctx, "/v1/models", list.read)
	if status == 0 && err != nil {
		return a, fmt.Errorf("%s: %w: check that the server runs at this address", s.URL, err)
	}
	if err == nil {
		if err := list.choose(&a); err != nil {
			return a, fmt.Errorf("%s: %w", s.URL, err)
		}
	}
	_, _ = s.get(ctx, "/version", func(r io.Reader) error {
		var v struct{ Version string }
		err := json.NewDecoder(r).Decode(&v)
		a.Version = printable(v.Version)
		return err
	})
	if s.Metrics != nil {
		_, _ = s.get(ctx, "/metrics", func(r io.Reader) (err error) {
			e, err := s.Metrics(r)
			if err == nil {
				a.Engine = e
			}
			return err
		})
	}
	return a, nil
}

// Await waits until the server responds. It fails after the given time. With 0 it does not wait.
func (s *Server) Await(ctx context.Context, most time.Duration) error {
	if most <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		status, err := s.get(ctx, "/v1/models", func(io.Reader) error { return nil })
		switch {
		case status != 0 && status != http.StatusServiceUnavailable && status != http.StatusBadGateway:
			return nil // it serves, even if it does not know this path
		case ctx.Err() != nil:
			return fmt.Errorf("%s did not answer within %s: %w", s.URL, most, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// models is the response of /v1/models.
type models struct {
	Data []struct {
		ID          string `json:"id"`
		MaxModelLen int    `json:"max_model_len"`
	} `json:"data"`
}

func (m *models) read(r io.Reader) error { return json.NewDecoder(r).Decode(m) }

func (m *models) choose(a *About) error {
	var names []string
	for _, one := range m.Data {
		if a.Model == "" || one.ID == a.Model {
			a.Model, a.Context = one.ID, max(0, one.MaxModelLen)
			return nil
		}
		names = append(names, printable(one.ID))
	}
	if len(names) > 0 {
		return fmt.Errorf("the server has no model %q: it has %s", a.Model, strings.Join(names, ", "))
	}
	return nil
}

// maxName bounds a text from the server, in bytes.
const maxName = 120

// printable makes a text from a server safe to print on one line.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxName {
		text = strings.ToValidUTF8(text[:maxName], "") + "…"
	}
	return text
}
