package plugin

import (
	"github.com/hashicorp/go-hclog"

	"aliquot.example/internal/share"
)

// onceLog logs each message for operators once, and again after its text has changed.
type onceLog struct {
	log    hclog.Logger
	last   map[string]string // the last text of each topic
	logged map[string]bool   // the notes of the newest plan
}

func (n *onceLog) once(topic string, level hclog.Level, text string) {
	if n.last == nil {
		n.last = map[string]string{}
	}
	if n.last[topic] == text {
		return
	}
	n.last[topic] = text
	n.log.Log(level, text)
}

// cleared logs text if once has logged a problem of this topic, and forgets the problem.
func (n *onceLog) cleared(topic, text string) {
	if n.last[topic] == "" {
		return
	}
	delete(n.last, topic)
	n.log.Info(text)
}

func (n *onceLog) plan(list []share.Note) {
	now := map[string]bool{}
	for _, note := range list {
		now[note.Text] = true
		if !n.logged[note.Text] {
			n.log.Warn(note.Text)
		}
	}
	n.logged = now
}
