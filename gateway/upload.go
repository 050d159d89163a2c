package gateway

import (
	"io"
	"net/http"
	"time"

	"aliquot.example/gateway/intake"
)

// upload is the body of a request on its way from the client to a replica.
type upload struct {
	body     *intake.Body // nil without one
	client   *slowBody    // the source of body
	grpc     bool         // it is a stream of messages
	complete bool         // receive has read it, as far as it is kept
	failure  error        // error of receiving it
	edits    edits        // changes for the replica
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

// receive receives the body before the request has a slot, so that no slot waits for a client. The
// server also notices only after the end of a body that a client leaves. For gRPC, receive receives
// the first message, because a stream may not end before it is answered.
func (u *upload) receive() {
	switch {
	case u.body == nil || u.complete:
		return
	case u.grpc:
		u.failure = u.body.TakeMessage()
	default:
		// Nothing is streamed yet, so enforce the mean rate also for a body of unknown length.
		floor := u.client.floor
		u.client.floor = true
		u.failure = u.body.Take()
		u.client.floor = floor
	}
	u.complete = true
}

// open returns the body for a replica, nil if it cannot be sent again.
func (u *upload) open() io.ReadCloser {
	body := u.body.Open()
	if body == nil || len(u.edits.list) == 0 {
		return body
	}
	return edited(body, u.edits.list)
}
