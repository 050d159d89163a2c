package dispatch

// Adjust puts other bounds in force: the threshold, the queue's length, the limits of
// tenants and the rules of ejection. All else of a policy stays as it was made.
func (q *Queue) Adjust(p Policy) {
	q.policy.Theta, q.policy.MaxQueue, q.policy.Tenants, q.policy.Eject = p.Theta, p.MaxQueue, p.Tenants,
		p.Eject.defaulted()
	for name, t := range q.tenants {
		t.limits = q.limitsOf(name)
		q.park(t)
	}
}
