package gateways

import (
	"context"
	"net/http"
	"sync"
	"testing"
)

// A replica notices a request beyond its slots.
func TestAReplicaNoticesWhatIsBeyondItsSlots(t *testing.T) {
	r, err := NewReplica("127.0.0.1", "c", 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, leave := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	defer wait.Wait()
	defer leave()
	for n := 1; n <= 2; n++ {
		wait.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.Address, nil)
			req.Header.Set(fromHeader, "0.1")
			req.Header.Set(ServeHeader, "1h")
			http.DefaultClient.Do(req)
		})
		err := Await(t.Context(), "a request", func() string {
			if r.MaxActive() < n {
				return "it has not begun"
			}
			return ""
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(r.Exceeded()); got != n-1 {
			t.Errorf("%d excesses with %d requests on one slot", got, n)
		}
	}
}
