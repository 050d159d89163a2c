// Package engine is a client of the node's container engine, through its API on a Unix socket.
package engine

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

	"aliquot.example/internal/cacheapi"
)

// Engine is a client of a Docker engine.
type Engine struct {
	http *http.Client
	// timeout limits a request that needs no registry.
	timeout time.Duration
}

// timeout is the default of Engine.timeout.
const timeout = 30 * time.Second

// New returns a client of the engine at a socket.
func New(socket string) *Engine { return &Engine{cacheapi.OverSocket(socket), timeout} }

// Has reports whether an image is on the node.
func (e *Engine) Has(ctx context.Context, image string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	res, err := e.ask(ctx, http.MethodGet, "/images/"+image+"/json")
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, refusal(res)
}

// Pull pulls an image without credentials. It returns when the image is on the node.
func (e *Engine) Pull(ctx context.Context, image string) error {
	res, err := e.ask(ctx, http.MethodPost, "/images/create?"+url.Values{"fromImage": {image}}.Encode())
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return refusal(res)
	}
	for lines := json.NewDecoder(res.Body); ; {
		var line struct {
			Error string `json:"error"`
		}
		switch err := lines.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the container engine's answer ended early: %w", err)
		case line.Error != "":
			return errors.New(line.Error)
		}
	}
}

// PullAs pulls an image by the name from, and stores it only under the second name. Only a pull can
// store a name with a digest; it reads no more than the manifest, because all layers are on the
// node already.
func (e *Engine) PullAs(ctx context.Context, from, name string) error {
	if err := e.Pull(ctx, from); err != nil {
		return err
	}
	err := e.name(ctx, from, name)
	res, failed := e.ask(ctx, http.MethodDelete, "/images/"+from)
	if failed != nil {
		return errors.Join(err, failed)
	}
	defer res.Body.Close()
	if err == nil && res.StatusCode != http.StatusOK {
		return refusal(res)
	}
	return err
}

func (e *Engine) name(ctx context.Context, from, name string) error {
	if strings.Contains(name, "@") {
		return e.Pull(ctx, name)
	}
	repository, tag := name, "latest"
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		repository, tag = name[:colon], name[colon+1:]
	}
	res, err := e.ask(ctx, http.MethodPost, "/images/"+from+"/tag?"+url.Values{"repo": {repository},
		"tag": {tag}}.Encode())
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		return refusal(res)
	}
	return nil
}

func (e *Engine) ask(ctx context.Context, method, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := e.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("the container engine does not answer: %w", err)
	}
	return res, nil
}

func refusal(res *http.Response) error {
	var body struct {
		Message string `json:"message"`
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	if json.Unmarshal(text, &body) != nil || body.Message == "" {
		body.Message = strings.TrimSpace(string(text))
	}
	return fmt.Errorf("the container engine answers %s: %s", res.Status, body.Message)
}
