package dispatch

import (
	"testing"
	"time"
)

// backlog returns a queue with one replica of one slot, and n requests of which the first runs.
func backlog(ahead, n int) (q *Queue, tickets []*Ticket) {
	q = New(Policy{SendAhead: ahead})
	q.Put(Replica{ID: "a", Slots: 1, Weight: 1})
	for range n {
		k := &Ticket{Request: Request{Expire: epoch.Add(time.Hour)}}
		q.Submit(k, epoch)
		tickets = append(tickets, k)
	}
	for q.Next(epoch) != nil {
	}
	return q, tickets
}

func places(tickets []*Ticket) (running, early, waiting int) {
	for _, k := range tickets {
		switch {
		case k.waiting:
			waiting++
		case k.early:
			early++
		case k.on != nil:
			running++
		}
	}
	return running, early, waiting
}

// A client that leaves while its request was sent ahead makes room for another request, and says
// nothing about the replica.
func TestAClientLeavesWhileItsRequestWaitsAtTheReplica(t *testing.T) {
	q, k := backlog(1, 4)
	if !k[1].early {
		t.Fatal("the second request was not sent ahead")
	}
	now := epoch.Add(time.Second)
	q.Finish(k[1], Neutral, 0, now)
	if q.Next(now) != k[2] || !k[2].early {
		t.Error("the third request was not sent ahead in its place")
	}
	q.Finish(k[0], Served, 0, now)
	if running, early, waiting := places(k[2:]); running != 1 || early != 0 || waiting != 1 {
		t.Errorf("%d run, %d were sent ahead, %d wait; want 1, 0, 1", running, early, waiting)
	}
}

// The time that a request waits at a replica for another one is not the replica's service time.
func TestTheTimeSentAheadIsNotLearned(t *testing.T) {
	q, k := backlog(1, 40)
	now := epoch
	for range 30 {
		now = now.Add(100 * time.Millisecond)
		for _, done := range k {
			if done.on != nil && !done.early {
				q.Finish(done, Served, 0, now)
				break
			}
		}
		for q.Next(now) != nil {
		}
	}
	if rate := q.fleet.servers["a"].own.rate(); rate < 9.9 || rate > 10.1 {
		t.Errorf("the replica serves %.2f requests a second, want 10", rate)
	}
}

// A replica that just failed, or is on probation, is sent nothing ahead.
func TestAFailingReplicaIsSentNothingAhead(t *testing.T) {
	q, k := backlog(1, 6)
	q.Finish(k[1], Neutral, 0, epoch)
	q.Finish(k[0], Failed, 0, epoch)
	for q.Next(epoch) != nil {
	}
	if running, early, _ := places(k); running != 1 || early != 0 {
		t.Errorf("%d run and %d were sent ahead, want 1 and 0", running, early)
	}
}

// A reload changes how many are sent ahead, and keeps what was sent.
func TestAdjustChangesHowManyAreSentAhead(t *testing.T) {
	q, k := backlog(0, 6)
	for _, want := range []int{0, 2, 2} { // the last one is set to 0, and nothing is called back
		if _, early, _ := places(k); early != want {
			t.Errorf("%d were sent ahead, want %d", early, want)
		}
		q.Adjust(Policy{SendAhead: map[int]int{0: 2, 2: 0}[want]})
		for q.Next(epoch) != nil {
		}
	}
	q.Finish(k[0], Served, 0, epoch)
	for q.Next(epoch) != nil {
	}
	if running, early, waiting := places(k); running != 1 || early != 1 || waiting != 3 {
		t.Errorf("%d run, %d were sent ahead, %d wait; want 1, 1, 3", running, early, waiting)
	}
}
