package dispatch

import (
	"fmt"
	"testing"
	"time"

	"aliquot.example/internal/reference"
)

// The defaults in docs/configuration.md are these.
func TestDocumentedEjection(t *testing.T) {
	page := reference.Section(t, "Gateway")
	e := Ejection{}.defaulted()
	for key, is := range map[string]time.Duration{"eject_time": e.Base, "eject_time_max": e.Max} {
		if documented, err := time.ParseDuration(page["service.queue."+key].Text()); err != nil || documented != is {
			t.Errorf("%s is %s, on the page %s", key, is, page["service.queue."+key].Default)
		}
	}
	if documented := page["service.queue.eject_failures"].Default; documented != fmt.Sprint(e.Failures) {
		t.Errorf("eject_failures is %d, on the page %s", e.Failures, documented)
	}
}
