package talk

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"aliquot.example/internal/dispatch"
)

var errMalformed = errors.New("talk: invalid frame")

// field is one decoded field: a number or bytes.
type field struct {
	number uint64
	bytes  []byte
}

func (f field) signed() int64            { return protowire.DecodeZigZag(f.number) }
func (f field) span() time.Duration      { return time.Duration(f.signed()) }
func (f field) at(n time.Time) time.Time { return n.Add(f.span()) }

// float returns the number of the field, 0 if it is NaN or infinite.
func (f field) float() float64 {
	v := math.Float64frombits(f.number)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return v
}

// count returns the number of the field, limited to -1 and 2^40.
func (f field) count() int { return int(min(max(f.signed(), -1), 1<<40)) }

// each calls got for every field of a message.
func each(b []byte, got func(protowire.Number, field) error) error {
	for len(b) > 0 {
		f, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		var v field
		switch kind {
		case protowire.VarintType:
			v.number, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v.number, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(f, kind, b)
		}
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		if err := got(f, v); err != nil {
			return err
		}
	}
	return nil
}

// Parse decodes a frame that a gateway of this version received at now. It returns an error if the
// frame has neither this version nor the previous one.
func Parse(b []byte, version uint64, now time.Time) ([]Record, error) {
	var out []Record
	spoken := false
	err := each(b, func(f protowire.Number, v field) error {
		switch f {
		case frameVersion:
			if spoken = v.number == version || v.number+1 == version; !spoken {
				return fmt.Errorf("talk: the other gateway uses version %d of the protocol, this one version %d: "+
					"update gateways one release at a time", v.number, version)
			}
		case frameRecord:
			if !spoken {
				return errMalformed
			}
			var r Record
			if err := r.parse(v.bytes, now); err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

func (r *Record) parse(b []byte, now time.Time) error {
	return each(b, func(f protowire.Number, v field) error {
		if int(f) < len(recordFields) && recordFields[f] != nil {
			recordFields[f](r, v)
			return nil
		}
		switch f {
		case recordRequest:
			r.Request = &dispatch.Request{}
			return parseRequest(r.Request, v.bytes, now)
		case recordArrived:
			r.Arrived = v.at(now)
		case recordStarted:
			r.Started = v.at(now)
		case recordLoads:
			var l Load
			if err := l.parse(v.bytes); err != nil {
				return err
			}
			r.Loads = append(r.Loads, l)
		case recordCharges:
			return parseCharge(&r.Charges, v.bytes)
		}
		return nil
	})
}

// recordFields take the fields of a record that are one value each, by their numbers.
var recordFields = [...]func(*Record, field){
	recordKind:       func(r *Record, v field) { r.Kind = Kind(v.number) },
	recordService:    func(r *Record, v field) { r.Service = string(v.bytes) },
	recordEpoch:      func(r *Record, v field) { r.Epoch = v.number },
	recordID:         func(r *Record, v field) { r.ID = v.number },
	recordReplica:    func(r *Record, v field) { r.Replica = string(v.bytes) },
	recordAddress:    func(r *Record, v field) { r.Address = string(v.bytes) },
	recordClass:      func(r *Record, v field) { r.Class = string(v.bytes) },
	recordRequire:    func(r *Record, v field) { r.Require = append(r.Require, string(v.bytes)) },
	recordPrefer:     func(r *Record, v field) { r.Prefer = append(r.Prefer, string(v.bytes)) },
	recordHears:      func(r *Record, v field) { r.Hears = append(r.Hears, string(v.bytes)) },
	recordVerdict:    func(r *Record, v field) { r.Verdict = dispatch.Verdict(v.count()) },
	recordPause:      func(r *Record, v field) { r.Pause = v.span() },
	recordBegan:      func(r *Record, v field) { r.Began = v.number != 0 },
	recordTokens:     func(r *Record, v field) { r.Tokens = v.count() },
	recordHasUsage:   func(r *Record, v field) { r.HasUsage = v.number != 0 },
	recordPrompt:     func(r *Record, v field) { r.Prompt = v.count() },
	recordCached:     func(r *Record, v field) { r.Cached = v.count() },
	recordOutput:     func(r *Record, v field) { r.Output = v.count() },
	recordRefusal:    func(r *Record, v field) { r.Refusal = dispatch.Refusal(v.count()) },
	recordAfter:      func(r *Record, v field) { r.After = v.span() },
	recordGateway:    func(r *Record, v field) { r.Gateway = string(v.bytes) },
	recordProcess:    func(r *Record, v field) { r.Process = v.number },
	recordHeartbeat:  func(r *Record, v field) { r.Heartbeat = v.number },
	recordHeard:      func(r *Record, v field) { r.Heard = v.number },
	recordLeaving:    func(r *Record, v field) { r.Leaving = v.number != 0 },
	recordTenant:     func(r *Record, v field) { r.Tenant = string(v.bytes) },
	recordReport:     func(r *Record, v field) { r.Report = v.number },
	recordSalt:       func(r *Record, v field) { r.Salt[0] = v.number },
	recordSaltMore:   func(r *Record, v field) { r.Salt[1] = v.number },
	recordMaxVersion: func(r *Record, v field) { r.MaxVersion = v.number },
	recordAmount:     func(r *Record, v field) { r.Amount = v.float() },
}

func parseRequest(r *dispatch.Request, b []byte, now time.Time) error {
	return each(b, func(f protowire.Number, v field) error {
		switch f {
		case requestTenant:
			r.Tenant = string(v.bytes)
		case requestPriority:
			r.Priority = v.count()
		case requestPlacement:
			r.Placement = v.count()
		case requestCost:
			r.Cost = v.float()
		case requestExpire:
			r.Expire = v.at(now)
		case requestDeadline:
			r.Deadline = v.at(now)
		case requestPrompt:
			r.Prompt = v.count()
		case requestOutput:
			r.Output = v.count()
		case requestBlocks:
			for rest := v.bytes; len(rest) >= 8; rest = rest[8:] {
				h, _ := protowire.ConsumeFixed64(rest)
				r.Blocks = append(r.Blocks, h)
			}
		case requestWhole:
			r.Whole = v.number != 0
		}
		return nil
	})
}

func (l *Load) parse(b []byte) error {
	return each(b, func(f protowire.Number, v field) error {
		switch f {
		case loadService:
			l.Service = string(v.bytes)
		case loadQueued:
			l.Queued = v.count()
		case loadTokens:
			l.Tokens = v.count()
		case loadReplicas:
			var h Held
			err := each(v.bytes, func(f protowire.Number, v field) error {
				switch f {
				case heldReplica:
					h.Replica = string(v.bytes)
				case heldClass:
					h.Class = string(v.bytes)
				case heldCount:
					h.Count = v.count()
				case heldTokens:
					h.Tokens = v.count()
				}
				return nil
			})
			l.Replicas = append(l.Replicas, h)
			return err
		case loadCharges:
			return parseCharge(&l.Charges, v.bytes)
		case loadAllCharges:
			l.AllCharges = v.number != 0
		case loadConfig:
			l.Config = v.number
		case loadFollows:
			l.Follows = v.number
		}
		return nil
	})
}

func parseCharge(to *[]dispatch.Charge, b []byte) error {
	var c dispatch.Charge
	err := each(b, func(f protowire.Number, v field) error {
		switch f {
		case chargeTenant:
			c.Tenant = string(v.bytes)
		case chargePriority:
			c.Priority = v.count()
		case chargePlacement:
			c.Placement = v.count()
		case chargeAhead:
			c.Ahead = v.float()
		}
		return nil
	})
	*to = append(*to, c)
	return err
}
