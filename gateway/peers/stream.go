package peers

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"aliquot.example/gateway/talk"
)

// talks is the only method of the gRPC service: a bidirectional stream, opened by the gateway that
// asks for slots.
var talks = grpc.StreamDesc{StreamName: "Talk", ServerStreams: true, ClientStreams: true}

const (
	grpcService = "aliquot.gateway.Peers"
	method      = "/" + grpcService + "/Talk"
)

// service describes the hub to a gRPC server.
func (h *Hub) service() *grpc.ServiceDesc {
	served := talks
	served.Handler = func(_ any, s grpc.ServerStream) error { return h.serve(s) }
	return &grpc.ServiceDesc{ServiceName: grpcService, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{served}}
}

// frame is a message of the stream, encoded by package talk.
type frame struct{ b []byte }

// codec passes frames through: the caller encodes them, because it has the records.
type codec struct{}

func (codec) Name() string { return "aliquot" }

func (codec) Marshal(v any) ([]byte, error) {
	if f, ok := v.(*frame); ok {
		return f.b, nil
	}
	return nil, errors.New("peers: the message is not a frame")
}

func (codec) Unmarshal(b []byte, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return errors.New("peers: the message is not a frame")
	}
	f.b = append(f.b[:0], b...)
	return nil
}

// transport is either end of a gRPC stream.
type transport interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

const (
	// maxPending is how many records may wait to be sent. A stream with more is closed; after a
	// reconnect, the gateway sends a report instead.
	maxPending = 1 << 18
	// maxRecords bounds the records in a frame, so that a long report does not delay the
	// heartbeats behind it.
	maxRecords = 1 << 12
	// maxFrame bounds a frame, in bytes.
	maxFrame = 64 << 20
)

// stream sends records in order. Each batch holds the records that were queued while the previous
// batch was sent.
type stream struct {
	to  transport
	own uint64 // the protocol version of this gateway
	// version is the highest version that both ends speak.
	version atomic.Uint64
	wake    chan struct{}
	done    chan struct{}
	once    sync.Once

	mu      sync.Mutex
	pending []talk.Record
}

func (h *Hub) newStream(to transport) *stream {
	s := &stream{to: to, own: h.version, wake: make(chan struct{}, 1), done: make(chan struct{})}
	s.version.Store(talk.Common(s.own, 0))
	return s
}

// hello returns the first record that this gateway sends on a stream.
func (h *Hub) hello() talk.Record {
	return talk.Record{Kind: talk.Hello, Gateway: string(h.options.Self), Process: h.process, MaxVersion: h.version}
}

// negotiate sets the version by the other end's Hello.
func (s *stream) negotiate(r *talk.Record) { s.version.Store(talk.Common(s.own, max(r.MaxVersion, 1))) }

func (s *stream) close() { s.once.Do(func() { close(s.done) }) }

func (s *stream) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// send queues a record. It never blocks.
func (s *stream) send(r talk.Record) {
	s.mu.Lock()
	full := len(s.pending) >= maxPending
	if !full {
		s.pending = append(s.pending, r)
	}
	s.mu.Unlock()
	if full {
		s.close()
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write sends queued records until the stream ends.
func (s *stream) write() {
	defer s.close()
	var spare []talk.Record
	for {
		select {
		case <-s.wake:
		case <-s.done:
			return
		}
		s.mu.Lock()
		batch := s.pending
		s.pending = spare[:0]
		s.mu.Unlock()
		for rest := batch; len(rest) > 0; {
			n := min(len(rest), maxRecords)
			// gRPC may keep the bytes until it has sent them, so each frame gets new ones.
			if err := s.to.SendMsg(&frame{talk.Append(nil, s.version.Load(), rest[:n], time.Now())}); err != nil {
				return
			}
			rest = rest[n:]
		}
		clear(batch)
		spare = batch
	}
}

// read calls got with the records of each frame that has any, until the stream ends.
func (s *stream) read(got func([]talk.Record)) error {
	var f frame
	for {
		if err := s.to.RecvMsg(&f); err != nil {
			return err
		}
		records, err := talk.Parse(f.b, s.own, time.Now())
		if err != nil {
			return err
		}
		if len(records) > 0 {
			got(records)
		}
	}
}
