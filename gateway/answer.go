package gateway

import (
	"io"
	"net/http"
	"time"

	"aliquot.example/internal/dispatch"
)

// answer is the body of a replica's answer. It frees the slot at its end, before the last bytes have
// reached the client.
type answer struct {
	x    *exchange
	from *http.Response
	body io.ReadCloser
	err  error
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.body.Read(p)
	if r := a.x.reading; r != nil {
		r.readPart(a.x, p[:n], err)
	}
	if j := a.x.joined; j != nil {
		j.Feed(p[:n])
		if err == io.EOF {
			j.End()
		}
		if _, status := j.Failed(); status != 0 {
			a.from.StatusCode = status // the status that the replica would have answered without a stream
		}
	}
	if err != nil {
		a.finish(err)
	}
	return n, err
}

func (a *answer) finish(err error) {
	if a.err != nil {
		return
	}
	a.err = err
	switch {
	case err == io.EOF && a.x.joined != nil && a.x.joined.Err() != nil:
		a.x.release(dispatch.Failed, 0)
	case err == io.EOF:
		a.x.release(judge(a.x.in, a.from))
	case a.x.ctx.Err() != nil:
		a.x.release(a.x.abandoned(), 0)
	default:
		a.x.release(dispatch.Failed, 0)
	}
}

func (a *answer) Close() error { return a.body.Close() }

// judge returns the verdict about a replica from its complete answer.
//
// Only successful answers count for its speed: an error often takes only a millisecond, so a
// replica that returns nothing but errors would look like the fastest. Errors of the client are
// neutral; errors of the replica count against it.
func judge(asked *http.Request, r *http.Response) (dispatch.Verdict, time.Duration) {
	switch {
	case r.StatusCode == http.StatusServiceUnavailable:
		if pause, busy := retryAfter(r); busy {
			return dispatch.Busy, pause
		}
		return dispatch.Failed, 0
	case r.StatusCode >= 500:
		return dispatch.Failed, 0
	case r.StatusCode/100 != 2, asked.Method == http.MethodHead, asked.Method == http.MethodOptions:
		return dispatch.Neutral, 0
	}
	return judgeGRPC(r), 0
}

// judgeGRPC returns the verdict from the status at the end of a gRPC answer, whose HTTP status is
// always 200. An answer without a gRPC status counts as served.
func judgeGRPC(r *http.Response) dispatch.Verdict {
	status := r.Trailer.Get("Grpc-Status")
	if status == "" {
		status = r.Header.Get("Grpc-Status")
	}
	switch status {
	case "", "0":
		return dispatch.Served
	case "2", "13", "14", "15": // UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS
		return dispatch.Failed
	}
	return dispatch.Neutral
}
