package models

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"aliquot.example/internal/blob"
)

// restriction is the record that is there where the origin last refused a repository to
// those without a token, or said that it may: whatever revisions were public before.
// No revision has a "?" in its name.
func restriction(ref blob.Ref) string { return recordName(ref, "?restricted") }

func (l *Library) restricted(ref blob.Ref) bool {
	_, err := os.Stat(filepath.Join(l.dir(), restriction(ref)))
	return !errors.Is(err, fs.ErrNotExist)
}

// restrict records whether a repository is restricted, if there is any record of it. Of other
// repositories there is nothing to protect, and clients choose their names.
func (l *Library) restrict(ref blob.Ref, restricted bool) {
	if restricted == l.restricted(ref) || restricted && !l.records.of(restriction(ref)) {
		return
	}
	var err error
	if restricted {
		err = l.records.write(restriction(ref), nil)
	} else {
		err = l.records.remove(restriction(ref))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.Log.Warn("whether a model is public could not be written", "model", ref.String(), "error", err)
	}
}

// branch is what a movable revision, such as a branch, named at a time.
type branch struct {
	Revision string    `json:"revision"`
	At       time.Time `json:"at"`
	Public   bool      `json:"public"`
	// Listing is that of the revision, if the revision is no name by which a model can be requested.
	Listing *Listing `json:"listing,omitempty"`
}

func (l *Library) loadBranch(ref blob.Ref) branch {
	b, err := parsed[branch](l.records, recordName(ref, ref.Revision))
	if err != nil {
		return branch{}
	}
	if b.Listing != nil {
		b.Listing = b.Listing.of(ref)
	}
	return b
}

func (l *Library) save(ref blob.Ref, got *Listing) error {
	b := branch{Revision: got.Revision, At: time.Now(), Public: got.Public}
	if ref.Scheme != "hf" && ref.Scheme != "oci" {
		b.Listing = got
	}
	saved, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if b.Listing != nil {
		return l.records.write(recordName(ref, ref.Revision), saved)
	}
	text, err := json.Marshal(got)
	if err != nil {
		return err
	}
	// The commit is a revision too, and clients go on with it.
	write := l.records.write
	return errors.Join(write(recordName(ref, "@"+got.Revision), text), write(recordName(ref, ref.Revision), saved),
		write(recordName(ref, got.Revision), saved))
}
