package conn

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"regexp"
	"testing"
)

// pieces is a connection that brings text in pieces.
type pieces struct {
	net.Conn
	text  []byte
	piece int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.text) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.text[:min(p.piece, len(p.text))])
	p.text = p.text[n:]
	return n, nil
}

var declares = regexp.MustCompile(`(?mi)^content-length:`)

// However requests are cut into pieces and follow each other, the text kept is
// that of the request which the server's own parser is at.
func FuzzHeads(f *testing.F) {
	const plain = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
	const short = "POST /a HTTP/1.1\nHost: x\nContent-Length: 24\n\nTransfer-Encoding: chunk\r\n"
	const chunks = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n14;x=y\r\nContent-Length: 12\r\n\r\n0\r\nX: trailer\r\n\r\n"
	const both = "POST / HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
	for _, seed := range []string{plain + both, short + both, chunks + both + chunks, both + plain, chunks + short[:60]} {
		for _, piece := range []int{1, 7, 4096} {
			f.Add([]byte(seed), piece)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, piece int) {
		c := newHeadConn(&pieces{text: text, piece: max(piece, 1)}, len(text))
		total := &counting{Reader: c}
		in := bufio.NewReader(total)
		for {
			from := total.n - in.Buffered()
			r, err := http.ReadRequest(in)
			if err != nil || r.ProtoMajor != 1 {
				return
			}
			header := text[from : total.n-in.Buffered()]
			if want := declares.Match(header); c.has(contentLength) != want {
				t.Fatalf("a length: %t, want %t, in %q of %q", !want, want, header, text)
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			c.next()
			if rest := text[total.n-in.Buffered() : total.n]; !bytes.Equal(c.text, rest) {
				t.Fatalf("kept %q, the parser has %q left", c.text, rest)
			}
		}
	})
}

type counting struct {
	io.Reader
	n int
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += n
	return n, err
}
