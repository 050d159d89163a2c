// Package guard recovers the panics of an autoscaler plugin and rewrites its error texts. The Nomad
// Autoscaler does not restart a plugin that crashed, and takes two phrases in an error for the loss
// of Nomad itself.
package guard

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// Recover turns a panic of the surrounding function into an error. Defer it in every RPC.
func Recover(log hclog.Logger, rpc string, err *error) {
	if p := recover(); p != nil {
		log.Error("recovered from a panic", "rpc", rpc, "fault", p, "stack", string(debug.Stack()))
		*err = fmt.Errorf("internal error in %s: %v: the plugin keeps running, report this with its log", rpc, p)
	}
}

// fatal replaces the phrases that make the agent (v0.5.0, policy/manager.go) drop all policies.
var fatal = strings.NewReplacer(
	"connection refused", "no process listens on that address",
	"unexpected EOF", "the response ended early",
	"EOF", "the response ended early",
)

// Plain rewrites the text of an error so that the agent does not take it for more than one failed
// evaluation. The wrapped error is unchanged.
func Plain(err error) error {
	if err == nil || fatal.Replace(err.Error()) == err.Error() {
		return err
	}
	return plain{err}
}

type plain struct{ error }

func (p plain) Error() string { return fatal.Replace(p.error.Error()) }
func (p plain) Unwrap() error { return p.error }
