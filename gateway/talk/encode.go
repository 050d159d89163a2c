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
	recordKind protowire.Number = iota + 1
	recordService
	recordEpoch
	recordID
	recordRequest
	recordArrived
	recordStarted
	recordReplica
	recordAddress
	recordClass
	recordVerdict
	recordPause
	recordBegan
	recordTokens
	recordHasUsage
	recordPrompt
	recordCached
	recordOutput
	recordRefusal
	recordAfter
	recordGateway
	recordProcess
	recordHeartbeat
	recordHeard
	recordLeaving
	recordLoads
	recordTenant
	recordAmount
	recordReport
	recordSalt
	recordSaltMore
	recordCharges
	recordMaxVersion
	recordRequire
	recordPrefer
	recordHears
)

const (
	requestTenant protowire.Number = iota + 1
	requestPriority
	requestPlacement
	requestCost
	requestExpire
	requestDeadline
	requestPrompt
	requestOutput
	requestBlocks
	requestWhole
)

const (
	loadService protowire.Number = iota + 1
	loadQueued
	loadReplicas
	loadTokens
	loadCharges
	loadAllCharges
	loadConfig
	loadFollows
)

const (
	heldReplica protowire.Number = iota + 1
	heldClass
	heldCount
	heldTokens
)

const (
	chargeTenant protowire.Number = iota + 1
	chargePriority
	chargePlacement
	chargeAhead
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
	w.unsigned(recordKind, uint64(r.Kind))
	w.text(recordService, r.Service)
	w.unsigned(recordEpoch, r.Epoch)
	w.unsigned(recordID, r.ID)
	if r.Request != nil {
		w.nested(recordRequest, func() { w.request(r.Request) })
	}
	w.span(recordArrived, r.Arrived)
	w.span(recordStarted, r.Started)
	w.text(recordReplica, r.Replica)
	w.text(recordAddress, r.Address)
	w.text(recordClass, r.Class)
	w.number(recordVerdict, int64(r.Verdict))
	w.number(recordPause, int64(r.Pause))
	w.flag(recordBegan, r.Began)
	w.number(recordTokens, int64(r.Tokens))
	w.flag(recordHasUsage, r.HasUsage)
	w.number(recordPrompt, int64(r.Prompt))
	w.number(recordCached, int64(r.Cached))
	w.number(recordOutput, int64(r.Output))
	w.number(recordRefusal, int64(r.Refusal))
	w.number(recordAfter, int64(r.After))
	w.text(recordGateway, r.Gateway)
	w.unsigned(recordProcess, r.Process)
	w.unsigned(recordHeartbeat, r.Heartbeat)
	w.unsigned(recordHeard, r.Heard)
	w.flag(recordLeaving, r.Leaving)
	for i := range r.Loads {
		w.nested(recordLoads, func() { w.load(&r.Loads[i]) })
	}
	w.text(recordTenant, r.Tenant)
	w.float(recordAmount, r.Amount)
	w.unsigned(recordReport, r.Report)
	w.unsigned(recordSalt, r.Salt[0])
	w.unsigned(recordSaltMore, r.Salt[1])
	w.charges(recordCharges, r.Charges)
	w.unsigned(recordMaxVersion, r.MaxVersion)
	w.texts(recordRequire, r.Require)
	w.texts(recordPrefer, r.Prefer)
	w.texts(recordHears, r.Hears)
}

func (w *writer) request(r *dispatch.Request) {
	w.text(requestTenant, r.Tenant)
	w.number(requestPriority, int64(r.Priority))
	w.number(requestPlacement, int64(r.Placement))
	w.float(requestCost, r.Cost)
	w.span(requestExpire, r.Expire)
	w.span(requestDeadline, r.Deadline)
	w.number(requestPrompt, int64(r.Prompt))
	w.number(requestOutput, int64(r.Output))
	if len(r.Blocks) > 0 {
		w.nested(requestBlocks, func() {
			for _, h := range r.Blocks {
				w.b = protowire.AppendFixed64(w.b, h)
			}
		})
	}
	w.flag(requestWhole, r.Whole)
}

func (w *writer) load(l *Load) {
	w.text(loadService, l.Service)
	w.number(loadQueued, int64(l.Queued))
	w.number(loadTokens, int64(l.Tokens))
	for i := range l.Replicas {
		h := &l.Replicas[i]
		w.nested(loadReplicas, func() {
			w.text(heldReplica, h.Replica)
			w.text(heldClass, h.Class)
			w.number(heldCount, int64(h.Count))
			w.number(heldTokens, int64(h.Tokens))
		})
	}
	w.charges(loadCharges, l.Charges)
	w.flag(loadAllCharges, l.AllCharges)
	w.unsigned(loadConfig, l.Config)
	w.unsigned(loadFollows, l.Follows)
}

func (w *writer) charges(as protowire.Number, all []dispatch.Charge) {
	for i := range all {
		c := &all[i]
		w.nested(as, func() {
			w.text(chargeTenant, c.Tenant)
			w.number(chargePriority, int64(c.Priority))
			w.number(chargePlacement, int64(c.Placement))
			w.float(chargeAhead, c.Ahead)
		})
	}
}
