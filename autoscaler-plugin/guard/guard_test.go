package guard

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestPlainKeepsWhatItWraps(t *testing.T) {
	for _, cause := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNREFUSED} {
		err := Plain(fmt.Errorf("gateway: %w", cause))
		if !errors.Is(err, cause) || strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%v became %v", cause, err)
		}
	}
	if err := errors.New("harmless"); Plain(err) != err || Plain(nil) != nil {
		t.Error("a harmless error is changed")
	}
}

func TestRecoverTurnsAPanicIntoAnError(t *testing.T) {
	rpc := func() (err error) {
		defer Recover(hclog.NewNullLogger(), "Query", &err)
		var none map[string]int
		//lint:ignore SA5000 this is the fault
		none["x"] = 1
		return nil
	}
	if err := rpc(); err == nil || !strings.Contains(err.Error(), "internal error in Query") {
		t.Errorf("got %v", err)
	}
}
