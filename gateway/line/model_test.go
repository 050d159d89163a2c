package line

import (
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// fault is what may go wrong.
type fault func(w *world)

func crash(w *world) {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	alive := 0
	for _, o := range w.nodes {
		if o.alive {
			alive++
		}
	}
	if !n.alive || alive < 2 || time.Now().Before(n.paused) {
		return
	}
	w.kill(n)
}

func (w *world) kill(n *node) {
	w.note("gateway %d crashes", n.i)
	w.mu.Lock()
	n.alive, n.died = false, time.Now()
	for j := range w.nodes {
		delete(w.streams, [2]int{n.i, j})
		delete(w.streams, [2]int{j, n.i})
	}
	w.mu.Unlock()
	n.crash()
	synctest.Wait()
}

func restart(w *world) {
	for _, n := range w.nodes {
		if !n.alive && time.Since(n.died) > time.Second {
			w.note("gateway %d starts", n.i)
			n.start(2)
			return
		}
	}
}

func pauseOne(w *world) { w.pause(time.Duration(w.rng.IntN(12000)) * time.Millisecond) }

// stutter stops a gateway for about as long as a lease lasts, or as it takes to be silent.
func stutter(w *world) { w.pause(time.Duration(300+w.rng.IntN(1200)) * time.Millisecond) }

func (w *world) pause(d time.Duration) {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if n.alive && !time.Now().Before(n.paused) {
		w.note("gateway %d stops for %v", n.i, d)
		w.mu.Lock()
		n.paused = time.Now().Add(d)
		w.mu.Unlock()
	}
}

func consulAway(w *world) {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	n.consul = !n.consul
	n.unheard = time.Now().Add(time.Duration(w.rng.IntN(20000)) * time.Millisecond)
	w.note("gateway %d reaches Consul: %t", n.i, n.consul)
}

func partition(w *world) {
	i, j := w.rng.IntN(len(w.nodes)), w.rng.IntN(len(w.nodes))
	if i == j {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	a, b := [2]int{i, j}, [2]int{j, i}
	if _, cut := w.cut[a]; cut {
		delete(w.cut, a)
		delete(w.cut, b)
		w.note("gateways %d and %d reach each other", i, j)
		return
	}
	w.cut[a], w.cut[b] = time.Now(), time.Now()
	w.note("gateways %d and %d are apart", i, j)
}

// isolate takes a gateway's host off the network, away from all others and from Consul, or
// puts it back.
func isolate(w *world) {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.nodes {
		if n == o {
			continue
		}
		for _, d := range [][2]int{{n.i, o.i}, {o.i, n.i}} {
			if n.consul {
				w.cut[d] = time.Now()
			} else {
				delete(w.cut, d)
			}
		}
	}
	n.consul = !n.consul
	w.note("gateway %d is on the network: %t", n.i, n.consul)
}

// oneWay has a gateway hear nothing from another one, which hears it.
func oneWay(w *world) {
	i, j := w.rng.IntN(len(w.nodes)), w.rng.IntN(len(w.nodes))
	if i == j {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, cut := w.cut[[2]int{i, j}]; cut {
		delete(w.cut, [2]int{i, j})
		w.note("gateway %d hears %d", j, i)
		return
	}
	w.cut[[2]int{i, j}] = time.Now()
	w.note("gateway %d does not hear %d", j, i)
}

// drain has a gateway leave in order, which a crash or a restart ends.
func drain(w *world) {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if !n.leaving && n.alive {
		w.note("gateway %d drains", n.i)
		n.leaving = true
	}
}

// reset ends streams, with what is on the way.
func reset(w *world) {
	i, j := w.rng.IntN(len(w.nodes)), w.rng.IntN(len(w.nodes))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("the stream of gateway %d to %d breaks", i, j)
	delete(w.streams, [2]int{i, j})
}

func (w *world) run(d time.Duration, load int, faults []fault, often int) {
	for end := time.Now().Add(d); time.Now().Before(end) && !w.t.Failed(); time.Sleep(modelTick) {
		if len(faults) > 0 && w.rng.IntN(often) == 0 {
			faults[w.rng.IntN(len(faults))](w)
		}
		for _, i := range w.rng.Perm(len(w.nodes)) {
			n := w.nodes[i]
			n.step()
			synctest.Wait()
			if n.alive && !time.Now().Before(n.paused) {
				for range w.rng.IntN(load + 1) {
					n.request(time.Duration(20+w.rng.IntN(500)) * time.Millisecond)
				}
				synctest.Wait()
			}
		}
		may := 0
		for _, n := range w.nodes {
			n.shared.mu.Lock()
			if n.alive && n.shared.owned.MayGrant(time.Now()) {
				may++
			}
			n.shared.mu.Unlock()
		}
		if may > 1 {
			w.t.Errorf("%d gateways may grant at once", may)
		}
	}
}

// heal ends all faults.
func (w *world) heal() {
	w.mu.Lock()
	clear(w.cut)
	for _, n := range w.nodes {
		n.consul = true
	}
	w.mu.Unlock()
	for _, n := range w.nodes {
		if n.alive && n.leaving {
			w.kill(n)
		}
	}
	for range w.nodes {
		for _, n := range w.nodes {
			if !n.alive {
				n.died = time.Time{}
			}
		}
		restart(w)
	}
	w.note("all is well again")
}

// allSlotsAreFree checks that an owner gives all slots when nothing is served: none is
// booked for a request that is over, and none is left to a gateway that follows.
func allSlotsAreFree(t *testing.T, w *world) {
	owner := w.owner()
	if owner == nil {
		t.Error("nobody owns the service")
		return
	}
	owner.shared.mu.Lock()
	defer owner.shared.mu.Unlock()
	for _, r := range owner.shared.queue.Replicas() {
		if r.Active != 0 || r.Usable != w.slots {
			t.Errorf("the owner has %d of replica %s in use and %d of %d usable", r.Active, r.ID, r.Usable, w.slots)
		}
	}
}

// nothingRemains checks that a gateway counts no request when there is none.
func nothingRemains(t *testing.T, s *Shared) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for column, level := range s.series.now {
		if level != 0 {
			t.Errorf("column %d of the series is %v: %v", column, level, s.series.now)
		}
	}
	if s.queued != (amount{}) || len(s.active) > 0 {
		t.Errorf("%+v wait and %+v are served", s.queued, s.active)
	}
}

// Whatever is lost, broken, stopped or cut off, no replica is given more than its
// slots, no two gateways grant in one epoch or at one time, and a request of a gateway
// that lives is served.
//
// Requests take up to half a second here: what a silent gateway was given after its
// last sign of life is over when others may come to use its slots. See the table of
// docs/gateways.md for longer ones.
func TestNoFaultGivesASlotTwice(t *testing.T) {
	for name, faults := range map[string][]fault{
		"crashes":    {crash, restart, restart, reset},
		"stops":      {pauseOne, reset},
		"stutters":   {stutter, stutter, stutter, pauseOne, reset},
		"no Consul":  {consulAway, crash, restart, restart},
		"partitions": {partition, reset},
		"hosts":      {isolate, reset},
		"one way":    {oneWay, oneWay, partition, reset},
		"deaf":       {oneWay, oneWay, consulAway, reset},
		"drains":     {drain, crash, restart, restart, reset},
		"everything": {crash, restart, restart, pauseOne, consulAway, partition, isolate, oneWay, drain, reset},
	} {
		t.Run(name, func(t *testing.T) {
			runs := 8
			if n, err := strconv.Atoi(os.Getenv("ALIQUOT_MODEL_RUNS")); err == nil {
				runs = n
			}
			for seed := range uint64(runs) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, seed, 3, 2, 2)
					w.run(20*time.Second, 1, faults, 20)
					w.heal()
					w.run(50*time.Second, 0, nil, 1)
					w.mu.Lock()
					open, served := w.open, w.served
					w.mu.Unlock()
					if open > 0 || served == 0 {
						t.Errorf("%d requests were served and %d still wait after all faults", served, open)
					}
					for _, n := range w.nodes {
						nothingRemains(t, n.shared)
					}
					allSlotsAreFree(t, w)
					if t.Failed() {
						t.Logf("seed %d", seed)
						for _, line := range w.trace {
							t.Log(line)
						}
					}
					for _, n := range w.nodes {
						n.crash()
					}
					synctest.Wait()
					time.Sleep(time.Minute) // paused requests
				})
				if t.Failed() {
					return
				}
			}
		})
	}
}
