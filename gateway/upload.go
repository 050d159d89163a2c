package gateway

import (
	"io"
	"net/http"
	"time"

	"aliquot.example/gateway/intake"
)

// upload is the body of a request on its way from the client to a replica.
type upload struct {
	body    *intake.Body // nil without one
	client  *slowBody    // what body reads
	grpc    bool         // it is a stream of messages
	taken   bool         // it was received as far as it is kept
	failure error        // of receiving it
	edits   edits        // of it, for the replica
}

func (s *Server) upload(w http.ResponseWriter, r *http.Request) upload {
	u := upload{grpc: isGRPC(r)}
	if r.ContentLength == 0 {
		return u
	}
	l := s.config.Listen
	u.client = &slowBody{
		ReadCloser: http.MaxBytesReader(w, r.Body, l.MaxBodyBytes), control: http.NewResponseController(w),
		limit: l.BodyTimeout, began: time.Now(), floor: r.ContentLength > 0, each: r.ProtoMajor == 2,
	}
	u.body = s.bodies.Body(u.client, r.ContentLength)
	return u
}

// takeIn receives the body before the request has a slot, so that no slot waits for
// a client, and a client that leaves is noticed: the server looks for that only
// when a body was read to its end. Of gRPC it receives the first message, since a
// stream may never end before it is answered.
func (u *upload) takeIn() {
	switch {
	case u.body == nil || u.taken:
		return
	case u.grpc:
		u.failure = u.body.TakeMessage()
	default:
		// Nothing is streamed yet, so a mean rate is demanded also of a body of
		// unknown length.
		floor := u.client.floor
		u.client.floor = true
		u.failure = u.body.Take()
		u.client.floor = floor
	}
	u.taken = true
}

// open gives the body for a replica; nil when that is not possible again.
func (u *upload) open() io.ReadCloser {
	body := u.body.Open()
	if body == nil || len(u.edits.list) == 0 {
		return body
	}
	return edited(body, u.edits.list)
}
