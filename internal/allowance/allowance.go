// Package allowance limits the use of a tenant per minute. The use of a request is known only when
// it ends, so an account charges an estimate first and corrects it afterwards. Simultaneous requests
// thus cannot spend the same allowance.
package allowance

import "time"

// Account is the allowance of a tenant: a bucket that fills steadily. Use beyond the estimates makes
// it negative. It is not safe for concurrent use.
type Account struct {
	rate float64 // per second
	size float64
	left float64 // may be negative
	at   time.Time
}

// Minute is the time in which an empty account fills.
const Minute = time.Minute

// New returns a full account with an allowance of perMinute.
func New(perMinute float64, now time.Time) *Account {
	return &Account{rate: perMinute / Minute.Seconds(), size: perMinute, left: perMinute, at: now}
}

// Change changes the allowance. What was used stays used.
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

// Take charges the estimate n, or returns the time after which to try again. If n exceeds the
// account's size, Take charges it once the account is full, which makes the account negative.
func (a *Account) Take(n float64, now time.Time) (ok bool, after time.Duration) {
	a.fill(now)
	if short := min(n, a.size) - a.left; short > 0 {
		return false, seconds(short / a.rate)
	}
	a.left -= n
	return true, 0
}

// Settle replaces the estimate taken with the actual use.
func (a *Account) Settle(taken, used float64, now time.Time) {
	a.fill(now)
	a.left = min(a.size, a.left+taken-used)
}

// Left returns the present allowance, and the time until the account is full.
func (a *Account) Left(now time.Time) (left float64, full time.Duration) {
	a.fill(now)
	return max(0, a.left), seconds((a.size - a.left) / a.rate)
}

// Full reports whether the account is full, and so equal to a new one.
func (a *Account) Full(now time.Time) bool {
	a.fill(now)
	return a.left >= a.size
}

// maxWait limits a duration so that its nanoseconds fit into 64 bits.
const maxWait = 365 * 24 * time.Hour

func seconds(s float64) time.Duration {
	if s >= maxWait.Seconds() {
		return maxWait
	}
	return time.Duration(s * float64(time.Second))
}
