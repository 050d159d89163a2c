package amd

import (
	"sync"

	"github.com/hashicorp/go-hclog"
)

// journal logs lasting conditions only when they change.
type journal struct {
	log    hclog.Logger
	mu     sync.Mutex
	logged map[string]string
}

// logChange logs text at level unless it is the last text that was logged for the subject. An empty text
// forgets the subject, so that the condition is logged again when it returns.
func (j *journal) logChange(level hclog.Level, subject, message, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if text == "" {
		delete(j.logged, subject)
		return
	}
	if j.logged[subject] == text {
		return
	}
	j.logged[subject] = text
	j.log.Log(level, message, "reason", text)
}

func (j *journal) warn(subject, message, text string) {
	j.logChange(hclog.Warn, subject, message, text)
}
func (j *journal) info(subject, message, text string) {
	j.logChange(hclog.Info, subject, message, text)
}
