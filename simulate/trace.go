package simulate

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Request is one request of a trace.
type Request struct {
	// At is the arrival, since the start of the trace.
	At time.Duration
	// Service is the service time in one slot of a replica with speed 1.
	Service time.Duration
	// InputTokens and OutputTokens are the lengths of prompt and response. They are 0 if the trace
	// does not come from a file.
	InputTokens, OutputTokens int
}

// tokens returns the tokens of the prompt and the response.
func (q Request) tokens() int { return q.InputTokens + q.OutputTokens }

// ServiceModel converts a request's tokens to its service time on a replica with speed 1. Prefill
// is linear in the input and decoding in the output.
type ServiceModel struct {
	PerInputToken, PerOutputToken time.Duration
}

// DefaultServiceModel returns 0.1 ms per input token and 20 ms per output token.
func DefaultServiceModel() ServiceModel {
	return ServiceModel{PerInputToken: 100 * time.Microsecond, PerOutputToken: 20 * time.Millisecond}
}

// Time returns the service time of a request.
func (m ServiceModel) Time(inputTokens, outputTokens int) time.Duration {
	return lasting(float64(inputTokens)*float64(m.PerInputToken) + float64(outputTokens)*float64(m.PerOutputToken))
}

var traceColumns = []string{"arrival_s", "input_tokens", "output_tokens"}

// ReadTrace reads a trace in CSV with the header "arrival_s,input_tokens,output_tokens". Arrivals
// are in seconds. Lines that start with '#' are comments. The result is ordered by arrival.
// ReadTrace fails on the first invalid line and names its number.
func ReadTrace(r io.Reader, model ServiceModel) ([]Request, error) {
	text := bufio.NewReader(r)
	if mark, _ := text.Peek(3); string(mark) == "\xef\xbb\xbf" {
		text.Discard(3) // a byte order mark, as spreadsheets write it
	}
	in := csv.NewReader(text)
	in.Comment = '#'
	// Valid fields contain no quotes. Lazy parsing makes a file that is not CSV fail with the error
	// about its first line.
	in.LazyQuotes = true
	in.FieldsPerRecord = -1
	in.ReuseRecord = true
	var out []Request
	for first := true; ; first = false {
		row, err := in.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("trace: %w: want the columns %s", err, strings.Join(traceColumns, ","))
		}
		line, _ := in.FieldPos(0)
		if first {
			if strings.Join(row, ",") != strings.Join(traceColumns, ",") {
				return nil, fmt.Errorf("trace: line %d is %.40q: want the header %s", line, strings.Join(row, ","),
					strings.Join(traceColumns, ","))
			}
			in.FieldsPerRecord = len(traceColumns)
			continue
		}
		req, err := parseRequest(row, model)
		if err != nil {
			return nil, fmt.Errorf("trace: line %d: %w", line, err)
		}
		out = append(out, req)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("trace: no requests in it: want lines of %s", strings.Join(traceColumns, ","))
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].At < out[j].At })
	return out, nil
}

func parseRequest(row []string, model ServiceModel) (Request, error) {
	at, err := strconv.ParseFloat(row[0], 64)
	if err != nil || !(at >= 0 && at <= 1e8) {
		return Request{}, fmt.Errorf("%s is %q: want seconds from 0 to 1e8", traceColumns[0], row[0])
	}
	var tokens [2]int
	for i := range tokens {
		n, err := strconv.Atoi(row[i+1])
		if err != nil || n < 0 || n > 1e9 {
			return Request{}, fmt.Errorf("%s is %q: want a whole number from 0 to 1e9", traceColumns[i+1], row[i+1])
		}
		tokens[i] = n
	}
	return Request{At: time.Duration(at * float64(time.Second)), Service: model.Time(tokens[0], tokens[1]),
		InputTokens: tokens[0], OutputTokens: tokens[1]}, nil
}
