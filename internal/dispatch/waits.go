package dispatch

// Waits calls yield for each tenant that has requests waiting at a priority, with their
// number. It takes time by tenants that wait, not by all that are known.
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
