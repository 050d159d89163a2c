package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/consul/api"

	"aliquot.example/internal/weigh"
	"aliquot.example/router"
)

// List reads all config entries of the kinds that the router writes, and the protocol of
// proxy-defaults. It does not decode entries that known already has at their index.
func (c *Client) List(ctx context.Context,
	known func(weigh.Key) (router.Stored, bool)) (map[weigh.Key]router.Stored, error) {
	out := map[weigh.Key]router.Stored{}
	for _, kind := range weigh.Kinds() {
		var text json.RawMessage
		if _, err := c.api.Raw().Query("/v1/config/"+string(kind), &text,
			(&api.QueryOptions{}).WithContext(ctx)); err != nil {
			return nil, fmt.Errorf("cannot list %s: %w", kind, err)
		}
		if err := c.decodeList(kind, text, known, out); err != nil {
			return nil, err
		}
	}
	return out, c.inherited(ctx, out)
}

// inherited adds the protocol of proxy-defaults.
func (c *Client) inherited(ctx context.Context, out map[weigh.Key]router.Stored) error {
	var all []struct {
		Name        string
		Config      map[string]any
		ModifyIndex uint64
	}
	key := weigh.Inherited()
	if _, err := c.api.Raw().Query("/v1/config/"+string(key.Kind), &all,
		(&api.QueryOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("cannot list %s: %w", key.Kind, err)
	}
	for _, e := range all {
		if e.Name != key.Name {
			continue
		}
		s := router.Stored{}
		s.Entry.Key, s.Index = key, e.ModifyIndex
		s.Entry.Protocol, _ = e.Config["protocol"].(string)
		out[key] = s
	}
	return nil
}

// decodeList decodes only entries that are not known: most audits find nothing new.
func (c *Client) decodeList(kind weigh.Kind, text []byte, known func(weigh.Key) (router.Stored, bool),
	out map[weigh.Key]router.Stored) error {
	var stamps []struct {
		Name        string
		ModifyIndex uint64
	}
	if err := json.Unmarshal(text, &stamps); err != nil {
		return fmt.Errorf("cannot decode the list of %s from Consul: %w", kind, err)
	}
	var raw []json.RawMessage
	for i, stamp := range stamps {
		key := weigh.Key{Kind: kind, Name: stamp.Name}
		if s, ok := known(key); ok && s.Index == stamp.ModifyIndex {
			out[key] = s
			continue
		}
		if raw == nil {
			if err := json.Unmarshal(text, &raw); err != nil {
				return fmt.Errorf("cannot decode the list of %s from Consul: %w", kind, err)
			}
		}
		s, err := c.decode(kind, raw[i])
		if err != nil {
			return err
		}
		out[key] = s
	}
	return nil
}

// Get reads one entry. The second result is false if it does not exist.
func (c *Client) Get(ctx context.Context, key weigh.Key) (router.Stored, bool, error) {
	var text json.RawMessage
	_, err := c.api.Raw().Query("/v1/config/"+string(key.Kind)+"/"+key.Name, &text,
		(&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	var status api.StatusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		return router.Stored{}, false, nil
	}
	if err != nil {
		return router.Stored{}, false, fmt.Errorf("cannot read %s: %w", key, err)
	}
	s, err := c.decode(key.Kind, text)
	return s, err == nil, err
}

// Put writes an entry of a service with the owner mark if the entry still has this index; index 0
// means that it must not exist yet. Put returns false otherwise. It keeps what others have added to
// the entry.
func (c *Client) Put(ctx context.Context, e weigh.Entry, service string, index uint64) (bool, error) {
	now, ok := c.remembered(e.Key, index)
	if index != 0 && !ok {
		s, there, err := c.Get(ctx, e.Key)
		if err != nil || !there || s.Index != index {
			return false, err
		}
		now, _ = c.remembered(e.Key, index)
	}
	ok, _, err := c.api.ConfigEntries().CAS(encode(e, c.owner, service, now), index,
		(&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return false, fmt.Errorf("cannot write %s: %w", e.Key, err)
	}
	return ok, nil
}

// Delete removes an entry if it still has this index, and returns false otherwise.
func (c *Client) Delete(ctx context.Context, key weigh.Key, index uint64) (bool, error) {
	ok, _, err := c.api.ConfigEntries().DeleteCAS(string(key.Kind), key.Name, index,
		(&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return false, fmt.Errorf("cannot remove %s: %w", key, err)
	}
	c.forget(key)
	return ok, nil
}
