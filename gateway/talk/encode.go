package talk

import (
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"aliquot.example/internal/dispatch"
)

// The fields of a frame.
const (
	frameVersion protowire.Number = 1
	frameRecord  protowire.Number = 2
)

// The fields of records, requests, loads, held requests and charges. Their numbers must never change.
const (
	fKind protowire.Number = iota + 1
	fService
	fEpoch
	fID
	fRequest
	fArrived
	fStarted
	fReplica
	fAddress
	fClass
	fVerdict
	fPause
	fBegan
	fTokens
	fTold
	fPrompt
	fCached
	fOutput
	fWhy
	fAfter
	fGateway
	fProcess
	fBeat
	fHeard
	fLeaving
	fLoads
	fTenant
	fAmount
	fReport
	fSalt
	fSaltMore
	fCharges
	fSpeaks
	fRequire
	fPrefer
)

const (
	rTenant protowire.Number = iota + 1
	rPriority
	rPlacement
	rCost
	rExpire
	rDeadline
	rPrompt
	rOutput
	rBlocks
	rWhole
)

const (
	lService protowire.Number = iota + 1
	lQueued
	lReplicas
	lTokens
	lCharges
	lTallied
	lConfig
	lFollows
)

const (
	hReplica protowire.Number = iota + 1
	hClass
	hCount
	hTokens
)

const (
	cTenant protowire.Number = iota + 1
	cPriority
	cPlacement
	cAhead
)

// writer appends fields. It omits fields with value zero.
type writer struct {
	b   []byte
	now time.Time
}

func (w *writer) number(f protowire.Number, v int64) {
	if v != 0 {
		w.b = protowire.AppendVarint(protowire.AppendTag(w.b, f, protowire.VarintType), protowire.EncodeZigZag(v))
	}
}

func (w *writer) unsigned(f protowire.Number, v uint64) {
	if v != 0 {
		w.b = protowire.AppendVarint(protowire.AppendTag(w.b, f, protowire.VarintType), v)
	}
}

func (w *writer) flag(f protowire.Number, v bool) {
	if v {
		w.unsigned(f, 1)
	}
}

func (w *writer) text(f protowire.Number, v string) {
	if v != "" {
		w.b = protowire.AppendString(protowire.AppendTag(w.b, f, protowire.BytesType), v)
	}
}

func (w *writer) texts(f protowire.Number, all []string) {
	for _, v := range all {
		w.b = protowire.AppendString(protowire.AppendTag(w.b, f, protowire.BytesType), v)
	}
}

func (w *writer) float(f protowire.Number, v float64) {
	if v != 0 {
		w.b = protowire.AppendFixed64(protowire.AppendTag(w.b, f, protowire.Fixed64Type), math.Float64bits(v))
	}
}

// span writes a time as its distance from now. It omits the zero time.
func (w *writer) span(f protowire.Number, t time.Time) {
	if !t.IsZero() {
		w.b = protowire.AppendVarint(protowire.AppendTag(w.b, f, protowire.VarintType),
			protowire.EncodeZigZag(int64(t.Sub(w.now))))
	}
}

// nested writes the data that put appends as one field. The length always takes four bytes, so that
// no data has to be moved.
func (w *writer) nested(f protowire.Number, put func()) {
	w.b = protowire.AppendTag(w.b, f, protowire.BytesType)
	at := len(w.b)
	w.b = append(w.b, 0x80, 0x80, 0x80, 0)
	put()
	n := len(w.b) - at - 4
	w.b[at], w.b[at+1], w.b[at+2], w.b[at+3] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)
}

// Append appends a frame of records in a version to b. Times are encoded relative to now.
func Append(b []byte, version uint64, records []Record, now time.Time) []byte {
	w := writer{b, now}
	w.unsigned(frameVersion, version)
	for i := range records {
		w.nested(frameRecord, func() { w.record(&records[i]) })
	}
	return w.b
}

func (w *writer) record(r *Record) {
	w.unsigned(fKind, uint64(r.Kind))
	w.text(fService, r.Service)
	w.unsigned(fEpoch, r.Epoch)
	w.unsigned(fID, r.ID)
	if r.Request != nil {
		w.nested(fRequest, func() { w.request(r.Request) })
	}
	w.span(fArrived, r.Arrived)
	w.span(fStarted, r.Started)
	w.text(fReplica, r.Replica)
	w.text(fAddress, r.Address)
	w.text(fClass, r.Class)
	w.number(fVerdict, int64(r.Verdict))
	w.number(fPause, int64(r.Pause))
	w.flag(fBegan, r.Began)
	w.number(fTokens, int64(r.Tokens))
	w.flag(fTold, r.Told)
	w.number(fPrompt, int64(r.Prompt))
	w.number(fCached, int64(r.Cached))
	w.number(fOutput, int64(r.Output))
	w.number(fWhy, int64(r.Why))
	w.number(fAfter, int64(r.After))
	w.text(fGateway, r.Gateway)
	w.unsigned(fProcess, r.Process)
	w.unsigned(fBeat, r.Beat)
	w.unsigned(fHeard, r.Heard)
	w.flag(fLeaving, r.Leaving)
	for i := range r.Loads {
		w.nested(fLoads, func() { w.load(&r.Loads[i]) })
	}
	w.text(fTenant, r.Tenant)
	w.float(fAmount, r.Amount)
	w.unsigned(fReport, r.Report)
	w.unsigned(fSalt, r.Salt[0])
	w.unsigned(fSaltMore, r.Salt[1])
	w.charges(fCharges, r.Charges)
	w.unsigned(fSpeaks, r.Speaks)
	w.texts(fRequire, r.Require)
	w.texts(fPrefer, r.Prefer)
}

func (w *writer) request(r *dispatch.Request) {
	w.text(rTenant, r.Tenant)
	w.number(rPriority, int64(r.Priority))
	w.number(rPlacement, int64(r.Placement))
	w.float(rCost, r.Cost)
	w.span(rExpire, r.Expire)
	w.span(rDeadline, r.Deadline)
	w.number(rPrompt, int64(r.Prompt))
	w.number(rOutput, int64(r.Output))
	if len(r.Blocks) > 0 {
		w.nested(rBlocks, func() {
			for _, h := range r.Blocks {
				w.b = protowire.AppendFixed64(w.b, h)
			}
		})
	}
	w.flag(rWhole, r.Whole)
}

func (w *writer) load(l *Load) {
	w.text(lService, l.Service)
	w.number(lQueued, int64(l.Queued))
	w.number(lTokens, int64(l.Tokens))
	for i := range l.Replicas {
		h := &l.Replicas[i]
		w.nested(lReplicas, func() {
			w.text(hReplica, h.Replica)
			w.text(hClass, h.Class)
			w.number(hCount, int64(h.Count))
			w.number(hTokens, int64(h.Tokens))
		})
	}
	w.charges(lCharges, l.Charges)
	w.flag(lTallied, l.Tallied)
	w.unsigned(lConfig, l.Config)
	w.unsigned(lFollows, l.Follows)
}

func (w *writer) charges(as protowire.Number, all []dispatch.Charge) {
	for i := range all {
		c := &all[i]
		w.nested(as, func() {
			w.text(cTenant, c.Tenant)
			w.number(cPriority, int64(c.Priority))
			w.number(cPlacement, int64(c.Placement))
			w.float(cAhead, c.Ahead)
		})
	}
}
