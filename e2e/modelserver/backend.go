package main

import "context"

// job is the work of a request, in tokens.
type job struct {
	prompt, output int
	// prefix returns the hashes of the prompt's full pages, or nil if there is no text.
	prefix func(page int) []uint64
}

// work is an accepted job.
type work struct {
	// run calls each after every token. It returns early with the error of ctx or of each.
	run func(ctx context.Context, each func(i int) error) error
	// cached returns the number of prompt tokens that needed no work. It is known after the first
	// token.
	cached func() int
	// end must be called once, however run returned.
	end func()
}

// occupancy counts the requests of a backend.
type occupancy struct{ most, running, waiting int }

// backend processes requests.
type backend interface {
	// accept takes a request. It fails with errBusy or engine.ErrTooLong, or with the
	// error of ctx.
	accept(ctx context.Context, j job) (*work, error)
	occupancy() occupancy
}
