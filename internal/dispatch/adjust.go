package dispatch

// Adjust puts other bounds in force: the threshold, the queue's length, the limits of
// tenants and the rules of ejection. The rest of a policy does not change.
func (q *Queue) Adjust(p Policy) {
	q.policy.Theta, q.policy.MaxQueue = p.Theta, p.MaxQueue
	q.waitlist.limit(p.Tenants)
	q.fleet.ejection = p.Eject.defaulted()
}
