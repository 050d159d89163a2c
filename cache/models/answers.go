package models

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// maxAnswers bounds the answers that are kept, because clients choose the questions.
const maxAnswers = 500

// Remember stores the answer to a question, in place of an earlier one. Of the question it stores
// only the digest.
func (l *Library) Remember(question string, answer any) error {
	text, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.answers(), 0o700); err != nil {
		return err
	}
	if err := l.Cache.Store().WriteFile(l.answer(question), text); err != nil {
		return err
	}
	return l.forgetAnswers()
}

// forgetAnswers removes the oldest answers.
func (l *Library) forgetAnswers() error {
	entries, err := os.ReadDir(l.answers())
	if err != nil || len(entries) <= maxAnswers {
		return err
	}
	age := map[string]time.Time{}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			age[e.Name()] = info.ModTime()
		}
	}
	names := slices.SortedFunc(maps.Keys(age), func(a, b string) int { return age[a].Compare(age[b]) })
	for _, name := range names[:max(0, len(names)-maxAnswers)] {
		if err := os.Remove(filepath.Join(l.answers(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Recall reads the answer to a question, and reports whether there is one.
func (l *Library) Recall(question string, answer any) bool {
	text, err := os.ReadFile(l.answer(question))
	return err == nil && json.Unmarshal(text, answer) == nil
}

func (l *Library) answers() string { return filepath.Join(l.dir(), "answers") }

func (l *Library) answer(question string) string {
	return filepath.Join(l.answers(), digest(question)+".json")
}
