package main

import "context"

// job is what a request asks for, in tokens.
type job struct {
	prompt, output int
	// prefix hashes the full pages of the prompt, nil where there is no text.
	prefix func(page int) []uint64
}

// work is a job that was accepted.
type work struct {
	// run calls each after every token, and ends early with the error of ctx or each.
	run func(ctx context.Context, each func(i int) error) error
	// cached is the tokens of the prompt that needed no work, known after the first
	// token.
	cached func() int
	// end must be called once, however run ended.
	end func()
}

// occupancy counts the requests of a backend.
type occupancy struct{ most, running, waiting int }

// backend works on requests.
type backend interface {
	// accept takes a request. It fails with errBusy or engine.ErrTooLong, or with the
	// error of ctx.
	accept(ctx context.Context, j job) (*work, error)
	occupancy() occupancy
}
