package amd

import (
	"sync"

	"github.com/hashicorp/go-hclog"
)

// journal logs what goes on for long only when it changes.
type journal struct {
	log  hclog.Logger
	mu   sync.Mutex
	said map[string]string
}

// tell logs text at level unless it was the last text logged of the subject. An
// empty text forgets the subject, so that it is logged again when it comes back.
func (j *journal) tell(level hclog.Level, subject, message, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if text == "" {
		delete(j.said, subject)
		return
	}
	if j.said[subject] == text {
		return
	}
	j.said[subject] = text
	j.log.Log(level, message, "reason", text)
}

func (j *journal) warn(subject, message, text string) { j.tell(hclog.Warn, subject, message, text) }
func (j *journal) info(subject, message, text string) { j.tell(hclog.Info, subject, message, text) }
