package dispatch

// Waits calls yield for each tenant with waiting requests at a priority, with their number. The
// time depends on the number of waiting tenants, not on that of all known ones.
func (q *Queue) Waits(yield func(tenant string, priority, requests int)) { q.waitlist.each(yield) }

// each is Queue.Waits.
func (w *waitlist) each(yield func(tenant string, priority, requests int)) {
	for i, c := range w.priorities {
		seen := map[*account]bool{}
		see := func(a *account) {
			if !seen[a] {
				seen[a] = true
				yield(a.tenant.name, i, a.queued)
			}
		}
		for at := range c.lanes {
			for _, heaps := range []*heap[*lane]{c.lanes[at], c.parked[at]} {
				for _, l := range heaps.items {
					see(l.account)
				}
			}
		}
		for _, t := range c.retries {
			see(t.lane.account)
		}
	}
}
