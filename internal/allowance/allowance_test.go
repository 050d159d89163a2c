package allowance

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Unix(1_000_000, 0)

func TestAnAccount(t *testing.T) {
	a := New(6000, start)
	if ok, _ := a.Take(5000, start); !ok {
		t.Error("what is there is refused")
	}
	if ok, after := a.Take(2000, start); ok || after != 10*time.Second {
		t.Errorf("1000 are missing of 100 a second: %t, again after %s", ok, after)
	}
	if ok, _ := a.Take(2000, start.Add(10*time.Second)); !ok {
		t.Error("refused at the time that was named")
	}
	a.Settle(2000, 500, start.Add(10*time.Second))
	if left, full := a.Left(start.Add(10 * time.Second)); left != 1500 || full != 45*time.Second {
		t.Errorf("%g left, full after %s", left, full)
	}
	if ok, _ := a.Take(9000, start.Add(54*time.Second)); ok {
		t.Error("more than the account holds is admitted before it is full")
	}
	if ok, _ := a.Take(9000, start.Add(55*time.Second)); !ok {
		t.Error("more than the account holds is never admitted")
	}
	if left, full := a.Left(start.Add(55 * time.Second)); left != 0 || full != 90*time.Second {
		t.Errorf("%g left of what is owed, full after %s", left, full)
	}
}

func TestAnotherAllowance(t *testing.T) {
	a := New(6000, start)
	a.Take(5000, start)
	a.Change(7000, start)
	if left, full := a.Left(start); left != 2000 || full.Round(time.Millisecond) != 42857*time.Millisecond {
		t.Errorf("%g left, full after %s", left, full)
	}
	a.Change(1000, start)
	if ok, after := a.Take(1, start); ok || after < 240*time.Second {
		t.Errorf("what was used is forgotten: %t, again after %s", ok, after)
	}
}

// However requests come and whatever they turn out to use: over any time no more is
// used than the allowance of that time and one account beyond it, but for the
// estimates' errors of what is under way, and the one request that is larger.
func TestABurstCannotOvershoot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(60, 1e6).Draw(t, "per minute")
		a := New(rate, start)
		now := start
		type request struct{ taken, used float64 }
		var under []request
		used, largest := 0.0, 0.0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
			if len(under) > 0 && rapid.Bool().Draw(t, "ends") {
				r := under[0]
				under = under[1:]
				a.Settle(r.taken, r.used, now)
				continue
			}
			r := request{taken: rapid.Float64Range(1, 2*rate).Draw(t, "estimate")}
			ok, after := a.Take(r.taken, now)
			if !ok {
				if after <= 0 {
					t.Fatal("refused, and to be tried again at once")
				}
				continue
			}
			r.used = r.taken // estimates that are right
			used += r.used
			largest = max(largest, r.taken)
			under = append(under, r)
			if allowed := rate + rate*now.Sub(start).Minutes() + max(0, largest-rate); used > allowed*1.000001 {
				t.Fatalf("%g used, %g allowed", used, allowed)
			}
		}
	})
}

// What was taken wrongly is as if it had been taken rightly once it is settled.
func TestTheTruthReplacesTheEstimate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(60, 1e6).Draw(t, "per minute")
		a, b := New(rate, start), New(rate, start)
		estimate, truth := rapid.Float64Range(0, rate).Draw(t, "estimate"), rapid.Float64Range(0, rate).Draw(t, "truth")
		a.Take(estimate, start)
		a.Settle(estimate, truth, start)
		b.Take(truth, start)
		left, _ := a.Left(start)
		if want, _ := b.Left(start); left < want-1e-6*rate || left > want+1e-6*rate {
			t.Fatalf("%g left, want %g", left, want)
		}
		if a.Full(start) != (truth < 1e-9*rate) && truth > 1e-6*rate {
			t.Fatal("full although something was used")
		}
	})
}
