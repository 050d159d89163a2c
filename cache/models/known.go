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

// restriction returns the name of the record that marks a repository as restricted. It exists if
// the origin last refused the repository to clients without a token, or said that it does so, even
// if some revisions were public before. No revision's name contains "?".
func restriction(ref blob.Ref) string { return recordName(ref, "?restricted") }

func (l *Library) restricted(ref blob.Ref) bool {
	_, err := os.Stat(filepath.Join(l.dir(), restriction(ref)))
	return !errors.Is(err, fs.ErrNotExist)
}

// restrict records whether a repository is restricted, if it has any records. Others need no
// protection, and clients choose their names.
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
		l.Log.Warn("cannot save whether a model is public", "model", ref.String(), "error", err)
	}
}

// branch records which revision a movable name, such as a branch, had at a time.
type branch struct {
	Revision string    `json:"revision"`
	At       time.Time `json:"at"`
	Public   bool      `json:"public"`
	// Listing is the listing of the revision, if the revision is not itself a name for requests.
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
	// The commit is a revision too, and clients use it for their next requests.
	write := l.records.write
	return errors.Join(write(recordName(ref, "@"+got.Revision), text), write(recordName(ref, ref.Revision), saved),
		write(recordName(ref, got.Revision), saved))
}
