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
		case fRequest:
			r.Request = &dispatch.Request{}
			return parseRequest(r.Request, v.bytes, now)
		case fArrived:
			r.Arrived = v.at(now)
		case fStarted:
			r.Started = v.at(now)
		case fLoads:
			var l Load
			if err := l.parse(v.bytes); err != nil {
				return err
			}
			r.Loads = append(r.Loads, l)
		case fCharges:
			return parseCharge(&r.Charges, v.bytes)
		}
		return nil
	})
}

// recordFields take the fields of a record that are one value each, by their numbers.
var recordFields = [...]func(*Record, field){
	fKind:     func(r *Record, v field) { r.Kind = Kind(v.number) },
	fService:  func(r *Record, v field) { r.Service = string(v.bytes) },
	fEpoch:    func(r *Record, v field) { r.Epoch = v.number },
	fID:       func(r *Record, v field) { r.ID = v.number },
	fReplica:  func(r *Record, v field) { r.Replica = string(v.bytes) },
	fAddress:  func(r *Record, v field) { r.Address = string(v.bytes) },
	fClass:    func(r *Record, v field) { r.Class = string(v.bytes) },
	fRequire:  func(r *Record, v field) { r.Require = append(r.Require, string(v.bytes)) },
	fPrefer:   func(r *Record, v field) { r.Prefer = append(r.Prefer, string(v.bytes)) },
	fVerdict:  func(r *Record, v field) { r.Verdict = dispatch.Verdict(v.count()) },
	fPause:    func(r *Record, v field) { r.Pause = v.span() },
	fBegan:    func(r *Record, v field) { r.Began = v.number != 0 },
	fTokens:   func(r *Record, v field) { r.Tokens = v.count() },
	fTold:     func(r *Record, v field) { r.Told = v.number != 0 },
	fPrompt:   func(r *Record, v field) { r.Prompt = v.count() },
	fCached:   func(r *Record, v field) { r.Cached = v.count() },
	fOutput:   func(r *Record, v field) { r.Output = v.count() },
	fWhy:      func(r *Record, v field) { r.Why = dispatch.Refusal(v.count()) },
	fAfter:    func(r *Record, v field) { r.After = v.span() },
	fGateway:  func(r *Record, v field) { r.Gateway = string(v.bytes) },
	fProcess:  func(r *Record, v field) { r.Process = v.number },
	fBeat:     func(r *Record, v field) { r.Beat = v.number },
	fHeard:    func(r *Record, v field) { r.Heard = v.number },
	fLeaving:  func(r *Record, v field) { r.Leaving = v.number != 0 },
	fTenant:   func(r *Record, v field) { r.Tenant = string(v.bytes) },
	fReport:   func(r *Record, v field) { r.Report = v.number },
	fSalt:     func(r *Record, v field) { r.Salt[0] = v.number },
	fSaltMore: func(r *Record, v field) { r.Salt[1] = v.number },
	fSpeaks:   func(r *Record, v field) { r.Speaks = v.number },
	fAmount:   func(r *Record, v field) { r.Amount = v.float() },
}

func parseRequest(r *dispatch.Request, b []byte, now time.Time) error {
	return each(b, func(f protowire.Number, v field) error {
		switch f {
		case rTenant:
			r.Tenant = string(v.bytes)
		case rPriority:
			r.Priority = v.count()
		case rPlacement:
			r.Placement = v.count()
		case rCost:
			r.Cost = v.float()
		case rExpire:
			r.Expire = v.at(now)
		case rDeadline:
			r.Deadline = v.at(now)
		case rPrompt:
			r.Prompt = v.count()
		case rOutput:
			r.Output = v.count()
		case rBlocks:
			for rest := v.bytes; len(rest) >= 8; rest = rest[8:] {
				h, _ := protowire.ConsumeFixed64(rest)
				r.Blocks = append(r.Blocks, h)
			}
		case rWhole:
			r.Whole = v.number != 0
		}
		return nil
	})
}

func (l *Load) parse(b []byte) error {
	return each(b, func(f protowire.Number, v field) error {
		switch f {
		case lService:
			l.Service = string(v.bytes)
		case lQueued:
			l.Queued = v.count()
		case lTokens:
			l.Tokens = v.count()
		case lReplicas:
			var h Held
			err := each(v.bytes, func(f protowire.Number, v field) error {
				switch f {
				case hReplica:
					h.Replica = string(v.bytes)
				case hClass:
					h.Class = string(v.bytes)
				case hCount:
					h.Count = v.count()
				case hTokens:
					h.Tokens = v.count()
				}
				return nil
			})
			l.Replicas = append(l.Replicas, h)
			return err
		case lCharges:
			return parseCharge(&l.Charges, v.bytes)
		case lTallied:
			l.Tallied = v.number != 0
		case lConfig:
			l.Config = v.number
		case lFollows:
			l.Follows = v.number
		}
		return nil
	})
}

func parseCharge(to *[]dispatch.Charge, b []byte) error {
	var c dispatch.Charge
	err := each(b, func(f protowire.Number, v field) error {
		switch f {
		case cTenant:
			c.Tenant = string(v.bytes)
		case cPriority:
			c.Priority = v.count()
		case cPlacement:
			c.Placement = v.count()
		case cAhead:
			c.Ahead = v.float()
		}
		return nil
	})
	*to = append(*to, c)
	return err
}
