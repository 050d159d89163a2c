// Package cacheapi is how programs of a node ask its cache for models: JSON over HTTP
// on a Unix socket. docs/cache.md describes it.
package cacheapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Socket is where the cache listens, unless its configuration says otherwise.
const Socket = "/run/aliquot/cache.sock"

// Fetch asks for a model: POST /v1/fetch. The answer is a Model.
type Fetch struct {
	// Model is its name, such as hf://Qwen/Qwen3-4B@main.
	Model string `json:"model"`
	// Include and Exclude are patterns of files; without any, all files.
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// Token is the job's for the origin, "" for none.
	Token string `json:"token,omitempty"`
	// Namespace is the job's in Nomad. The cache's configuration says which namespaces may
	// use the node's own tokens and keys.
	Namespace string `json:"namespace,omitempty"`
	// Owner, if any, pins the model as soon as it is whole, until
	// DELETE /v1/pins/<owner>: an allocation and task.
	Owner string `json:"owner,omitempty"`
	// Wait is how long the answer waits for the model to be whole, in seconds, at most
	// 60.
	Wait float64 `json:"wait,omitempty"`
}

// States of a model.
const (
	Fetching = "fetching"
	Whole    = "whole"
	Failed   = "failed"
)

// Model is how far a model is.
type Model struct {
	Model    string `json:"model"`
	Revision string `json:"revision"`
	State    string `json:"state"`
	// Path is the directory to mount read-only once State is Whole: for hf it holds
	// hub/models--<owner>--<name>, for other origins files/.
	Path string `json:"path,omitempty"`
	// Bytes of Total are here.
	Bytes int64 `json:"bytes"`
	Total int64 `json:"total"`
	// Peers is from how many peers some of it came.
	Peers int `json:"peers"`
	// Seconds is since when it is fetched.
	Seconds float64 `json:"seconds"`
	// Stale is set where the origin did not answer and this is the last revision known.
	Stale bool   `json:"stale,omitempty"`
	Error string `json:"error,omitempty"`
	// Final is set where the error stays until somebody changes something: the origin
	// denies access or has no such file, or there is no room on this node.
	Final bool `json:"final,omitempty"`
}

// Status is the state of a cache: GET /v1/status.
type Status struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
	Free    int64 `json:"free"`
	// Room is how many bytes can still be stored, with all evicted that may be.
	Room int64 `json:"room"`
	// Self and Peers are addresses.
	Self   string   `json:"self,omitempty"`
	Peers  []string `json:"peers"`
	Models []Model  `json:"models"`
	// Held names the models that are whole, also those of earlier processes.
	Held []string            `json:"held"`
	Pins map[string][]string `json:"pins"`
	// HF is the URL that HF_ENDPOINT may be set to, "" where the endpoint is off.
	HF string `json:"hf,omitempty"`
	// OCI is the URL of the endpoint of registries, "" where it is off.
	OCI string `json:"oci,omitempty"`
	// S3 is the URL that AWS_ENDPOINT_URL may be set to, "" where the endpoint is off.
	S3 string `json:"s3,omitempty"`
}

// Image asks how an image is pulled through the cache: POST /v1/image. The answer is a Pull;
// status 404 says that it cannot be.
type Image struct {
	// Image is its name as a job has it, such as vllm/vllm-openai:v0.28.0.
	Image string `json:"image"`
	// Namespace is the job's in Nomad.
	Namespace string `json:"namespace"`
}

// Pull is how the engine pulls an image through the cache.
type Pull struct {
	// Name is what the engine pulls.
	Name string `json:"name"`
	// Username and Password sign in where the job brings no credentials of its own.
	Username string `json:"username"`
	Password string `json:"password"`
}

// ErrSilent is the error of a question to a cache that does not answer.
var ErrSilent = errors.New("the node's cache does not answer")

// Error is a refusal of the cache.
type Error struct {
	Status  int
	Message string
}

func (e *Error) Error() string { return "cache: " + e.Message }

// Client asks the cache of this node.
type Client struct{ http *http.Client }

// NewClient makes a client of a socket.
func NewClient(socket string) *Client { return &Client{OverSocket(socket)} }

// OverSocket makes a client of HTTP over a Unix socket, whatever host URLs name. It keeps
// no connection for long, so that it can be dropped.
func OverSocket(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		IdleConnTimeout: 5 * time.Second,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "unix", socket)
		},
	}}
}

// Fetch asks for a model and returns how far it is.
func (c *Client) Fetch(ctx context.Context, ask Fetch) (m Model, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/fetch", ask, &m)
	return m, err
}

// Image asks how to pull an image through the cache.
func (c *Client) Image(ctx context.Context, ask Image) (p Pull, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/image", ask, &p)
	return p, err
}

// Unpin ends what an owner has pinned.
func (c *Client) Unpin(ctx context.Context, owner string) error {
	return c.do(ctx, http.MethodDelete, "/v1/pins/"+url.PathEscape(owner), nil, nil)
}

// Status asks how the cache is.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// Snapshot opens the archive of what was compiled under a key, here or on another node.
// Without one the error is an Error with status 404. The caller closes it.
func (c *Client) Snapshot(ctx context.Context, key string) (io.ReadCloser, error) {
	res, err := c.send(ctx, http.MethodGet, "/v1/compiled/"+key, nil, 0)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// ScopeHeader says in requests and answers about a snapshot whose it is, see Scope.
const ScopeHeader = "Aliquot-Scope"

// Scope is the value of ScopeHeader for a job.
func Scope(namespace, job string) string { return url.PathEscape(namespace + "/" + job) }

// Publish makes an archive of size bytes the snapshot of a key, of the job of a scope.
// Where there is one the error is an Error with status 409.
func (c *Client) Publish(ctx context.Context, key, scope string, archive io.Reader, size int64) error {
	res, err := c.send(ctx, http.MethodPut, "/v1/compiled/"+key, archive, size, ScopeHeader, scope)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

func (c *Client) do(ctx context.Context, method, path string, ask, answer any) error {
	body := []byte(nil)
	if ask != nil {
		var err error
		if body, err = json.Marshal(ask); err != nil {
			return err
		}
	}
	res, err := c.send(ctx, method, path, bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if answer == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(answer)
}

// send asks, with headers in pairs, and returns an answer that is no error.
func (c *Client) send(ctx context.Context, method, path string, body io.Reader, size int64,
	headers ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://cache"+path, body)
	if err != nil {
		return nil, err
	}
	r.ContentLength = size
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSilent, err)
	}
	if res.StatusCode >= 300 {
		defer res.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		return nil, &Error{res.StatusCode, strings.TrimSpace(string(text))}
	}
	return res, nil
}
