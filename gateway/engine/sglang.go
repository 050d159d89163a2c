package engine

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// sglangSleep is SGLang's release of memory, which needs --enable-memory-saver.
//
// The engine does not tell whether its memory is released, and ends when it is released
// twice or taken back without having been released. So the state is noted in the engine
// itself, as its weight version: any gateway reads it there, and it is gone when the engine
// starts again. It is noted before memory is released, and taken back after a request was
// served: who finds the note wakes the engine.
type sglangSleep struct{ *Bed }

const (
	// noteReleased and noteTaken come before the weight version that is restored: of an engine
	// whose memory is released, and of one that has it back, perhaps without its weights.
	noteReleased = "aliquot-released/"
	noteTaken    = "aliquot-resumed/"
)

// released are the tags of the memory that is released; graphs stay.
var released = map[string][]string{"tags": {"kv_cache", "weights"}}

// sglangInfo is what an SGLang server says of its settings.
type sglangInfo struct {
	Model  string `json:"model_path"`
	Saver  bool   `json:"enable_memory_saver"`
	Backup bool   `json:"enable_weights_cpu_backup"` // released weights stay in the host's memory
}

// version reads the weight version; ErrNoSleep where a server has none.
func (b sglangSleep) version(ctx context.Context, address string) (string, error) {
	var told struct {
		Version *string `json:"weight_version"`
	}
	status, err := b.first(ctx, address, &told, "/model_info", "/get_model_info")
	switch {
	case absent(status), err == nil && told.Version == nil:
		return "", ErrNoSleep
	case err != nil:
		return "", err
	}
	return *told.Version, nil
}

// note sets the weight version.
func (b sglangSleep) note(ctx context.Context, address, version string) error {
	_, err := b.ask(ctx, http.MethodPost, address, "/update_weight_version", map[string]any{"new_version": version,
		"abort_all_requests": false}, nil)
	return err
}

func (b sglangSleep) info(ctx context.Context, address string) (i sglangInfo, err error) {
	_, err = b.first(ctx, address, &i, "/server_info", "/get_server_info")
	return i, err
}

// first reads the first of several paths that the server has: newer releases have others.
func (b sglangSleep) first(ctx context.Context, address string, into any, paths ...string) (status int, err error) {
	for _, path := range paths {
		if status, err = b.ask(ctx, http.MethodGet, address, path, nil, into); !absent(status) {
			break
		}
	}
	return status, err
}

func (b sglangSleep) asleep(ctx context.Context, address string) (bool, error) {
	version, err := b.version(ctx, address)
	if err != nil {
		return false, err
	}
	if noted(version) {
		return true, nil
	}
	switch info, err := b.info(ctx, address); {
	case err != nil:
		return false, err
	case !info.Saver:
		return false, ErrNoSleep
	}
	return false, nil
}

func noted(version string) bool {
	return strings.HasPrefix(version, noteReleased) || strings.HasPrefix(version, noteTaken)
}

func (b sglangSleep) sleep(ctx context.Context, address string) error {
	version, err := b.version(ctx, address)
	if err != nil {
		return err
	}
	if err := b.note(ctx, address, noteReleased+version); err != nil {
		return err
	}
	status, err := b.ask(ctx, http.MethodPost, address, "/release_memory_occupation", released, nil)
	if status/100 == 4 { // it was refused, and nothing was released
		return errors.Join(err, b.note(ctx, address, version))
	}
	return err
}

func (b sglangSleep) wake(ctx context.Context, address, replica string) error {
	version, err := b.version(ctx, address)
	if err != nil {
		return err
	}
	before, released, err := b.takeBack(ctx, address, version)
	if err != nil {
		return err
	}
	if released {
		if err := b.reload(ctx, address); err != nil {
			return err
		}
	}
	if err := b.probe(ctx, replica); err != nil {
		return err
	}
	if !released {
		return nil
	}
	return b.note(ctx, address, before)
}

// takeBack has an engine take its memory back that is noted to have released it. It
// returns the weight version before that.
func (b sglangSleep) takeBack(ctx context.Context, address, version string) (before string, noted bool, err error) {
	if before, ok := strings.CutPrefix(version, noteTaken); ok {
		return before, true, nil
	}
	before, ok := strings.CutPrefix(version, noteReleased)
	if !ok {
		return version, false, nil
	}
	if _, err := b.ask(ctx, http.MethodPost, address, "/resume_memory_occupation", released, nil); err != nil {
		return "", false, err
	}
	return before, true, b.note(ctx, address, noteTaken+before)
}

// reload reads the weights again where they were not kept.
func (b sglangSleep) reload(ctx context.Context, address string) error {
	info, err := b.info(ctx, address)
	if err != nil || info.Backup {
		return err
	}
	var told struct {
		Success bool   `json:"success"`
		Message string `json:"message"`
	}
	_, err = b.ask(ctx, http.MethodPost, address,
		"/update_weights_from_disk", map[string]any{"model_path": info.Model}, &told)
	if err == nil && !told.Success {
		err = errors.New("/update_weights_from_disk: " + told.Message)
	}
	return err
}
