package engine

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// sglangSleep uses SGLang's release of memory, which needs --enable-memory-saver.
//
// The engine does not report whether its memory is released. It exits if its memory is released
// twice, or resumed without a release. The gateway therefore stores the state in the engine itself,
// as its weight version: every gateway can read it there, and it disappears when the engine
// restarts. The mark is set before memory is released, and removed after the engine has served a
// request. An engine with the mark has to be woken.
type sglangSleep struct{ *SleepMode }

const (
	// noteReleased and noteTaken are prefixes of the original weight version: of an engine whose
	// memory is released, and of one whose memory is resumed, perhaps without its weights.
	noteReleased = "aliquot-released/"
	noteTaken    = "aliquot-resumed/"
)

// released has the tags of the memory to release. CUDA graphs stay.
var released = map[string][]string{"tags": {"kv_cache", "weights"}}

// sglangInfo has settings of an SGLang server.
type sglangInfo struct {
	Model  string `json:"model_path"`
	Saver  bool   `json:"enable_memory_saver"`
	Backup bool   `json:"enable_weights_cpu_backup"` // released weights stay in the host's memory
}

// version returns the weight version, or ErrNoSleep if the server has none.
func (b sglangSleep) version(ctx context.Context, address string) (string, error) {
	var result struct {
		Version *string `json:"weight_version"`
	}
	status, err := b.first(ctx, address, &result, "/model_info", "/get_model_info")
	switch {
	case absent(status), err == nil && result.Version == nil:
		return "", ErrNoSleep
	case err != nil:
		return "", err
	}
	return *result.Version, nil
}

// setVersion sets the weight version.
func (b sglangSleep) setVersion(ctx context.Context, address, version string) error {
	_, err := b.ask(ctx, http.MethodPost, address, "/update_weight_version", map[string]any{"new_version": version,
		"abort_all_requests": false}, nil)
	return err
}

func (b sglangSleep) info(ctx context.Context, address string) (i sglangInfo, err error) {
	_, err = b.first(ctx, address, &i, "/server_info", "/get_server_info")
	return i, err
}

// first reads the first path that the server has. The paths differ between releases.
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
	if markOf(version) {
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

func markOf(version string) bool {
	return strings.HasPrefix(version, noteReleased) || strings.HasPrefix(version, noteTaken)
}

func (b sglangSleep) sleep(ctx context.Context, address string) error {
	version, err := b.version(ctx, address)
	if err != nil {
		return err
	}
	if err := b.setVersion(ctx, address, noteReleased+version); err != nil {
		return err
	}
	status, err := b.ask(ctx, http.MethodPost, address, "/release_memory_occupation", released, nil)
	if status/100 == 4 { // the engine refused and released nothing
		return errors.Join(err, b.setVersion(ctx, address, version))
	}
	return err
}

func (b sglangSleep) wake(ctx context.Context, address, replica string) error {
	version, err := b.version(ctx, address)
	if err != nil {
		return err
	}
	before, released, err := b.restore(ctx, address, version)
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
	return b.setVersion(ctx, address, before)
}

// restore resumes the memory of an engine whose mark says that it is released. It returns the
// original weight version, and whether there was a mark.
func (b sglangSleep) restore(ctx context.Context, address, version string) (before string, noted bool, err error) {
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
	return before, true, b.setVersion(ctx, address, noteTaken+before)
}

// reload makes the engine read its weights again if they were not kept.
func (b sglangSleep) reload(ctx context.Context, address string) error {
	info, err := b.info(ctx, address)
	if err != nil || info.Backup {
		return err
	}
	var result struct {
		Success bool   `json:"success"`
		Message string `json:"message"`
	}
	_, err = b.ask(ctx, http.MethodPost, address,
		"/update_weights_from_disk", map[string]any{"model_path": info.Model}, &result)
	if err == nil && !result.Success {
		err = errors.New("/update_weights_from_disk: " + result.Message)
	}
	return err
}
