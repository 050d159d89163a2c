package dispatch

// Adjust changes the threshold, the number of requests sent ahead, the length of the queue, the
// tenants' limits and the rules of ejection to those of p. It changes nothing else in the policy.
func (q *Queue) Adjust(p Policy) {
	q.policy.Theta, q.policy.SendAhead, q.policy.MaxQueue = p.Theta, p.SendAhead, p.MaxQueue
	q.waitlist.limit(p.Tenants)
	q.fleet.ejection = p.Eject.defaulted()
}
