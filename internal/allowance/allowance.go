// Package allowance bounds what a tenant may use in a span of time, where what a
// request uses is known only when it has ended: it is admitted by an estimate and
// settled by the truth, so that many requests at once cannot use what is there only
// once.
package allowance

import "time"

// Account is what a tenant may use: a bucket that fills steadily. Estimates are
// taken from it at once; what was used beyond them is owed. It is not safe for
// concurrent use.
type Account struct {
	rate float64 // per second
	size float64
	left float64 // negative when owed
	at   time.Time
}

// Minute is the span for which an account holds an allowance at most.
const Minute = time.Minute

// New returns a full account of so much per minute.
func New(perMinute float64, now time.Time) *Account {
	return &Account{rate: perMinute / Minute.Seconds(), size: perMinute, left: perMinute, at: now}
}

// Change gives the account another allowance; what was used stays used.
func (a *Account) Change(perMinute float64, now time.Time) {
	if perMinute == a.size {
		return
	}
	a.fill(now)
	a.left += perMinute - a.size
	a.rate, a.size = perMinute/Minute.Seconds(), perMinute
}

func (a *Account) fill(now time.Time) {
	if passed := now.Sub(a.at).Seconds(); passed > 0 {
		a.left = min(a.size, a.left+passed*a.rate)
		a.at = now
	}
}

// Take takes an estimate, or returns when it is worth trying again. What is larger
// than the account holds is admitted when the account is full, and is owed.
func (a *Account) Take(n float64, now time.Time) (ok bool, after time.Duration) {
	a.fill(now)
	if short := min(n, a.size) - a.left; short > 0 {
		return false, seconds(short / a.rate)
	}
	a.left -= n
	return true, 0
}

// Settle replaces an estimate that was taken by what was used.
func (a *Account) Settle(taken, used float64, now time.Time) {
	a.fill(now)
	a.left = min(a.size, a.left+taken-used)
}

// Left is what may be taken now, and the time until the account is full.
func (a *Account) Left(now time.Time) (left float64, full time.Duration) {
	a.fill(now)
	return max(0, a.left), seconds((a.size - a.left) / a.rate)
}

// Full reports whether nothing is taken: a new account would be the same.
func (a *Account) Full(now time.Time) bool {
	a.fill(now)
	return a.left >= a.size
}

// longest bounds a duration, so that its nanoseconds fit into 64 bits.
const longest = 365 * 24 * time.Hour

func seconds(s float64) time.Duration {
	if s >= longest.Seconds() {
		return longest
	}
	return time.Duration(s * float64(time.Second))
}
