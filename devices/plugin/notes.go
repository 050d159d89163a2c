package plugin

import (
	"github.com/hashicorp/go-hclog"

	"aliquot.example/internal/share"
)

// notes logs what an operator should know once, and again after it has changed.
type notes struct {
	log  hclog.Logger
	last map[string]string // topic -> text said last
	said map[string]bool   // notes of the newest plan
}

func (n *notes) once(topic string, level hclog.Level, text string) {
	if n.last == nil {
		n.last = map[string]string{}
	}
	if n.last[topic] == text {
		return
	}
	n.last[topic] = text
	n.log.Log(level, text)
}

// cleared logs text where something was logged of the topic, which is over now.
func (n *notes) cleared(topic, text string) {
	if n.last[topic] == "" {
		return
	}
	delete(n.last, topic)
	n.log.Info(text)
}

func (n *notes) plan(list []share.Note) {
	now := map[string]bool{}
	for _, note := range list {
		now[note.Text] = true
		if !n.said[note.Text] {
			n.log.Warn(note.Text)
		}
	}
	n.said = now
}
