package snapshot

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Records of an archive about a file with holes: its size, and where its data lies. The
// archive holds the data alone, so that a file takes no more room there and after it was
// unpacked than it did before. Package tar reads the formats of other programs for this
// and writes none.
const (
	sizeRecord   = "ALIQUOT.size"
	extentRecord = "ALIQUOT.data"
	// maxExtents bounds the record; a file in more parts is packed with its holes.
	maxExtents = 4096
)

// extent is a part of a file that holds data.
type extent struct{ at, length int64 }

// extentsOf finds the data of a file of size bytes, and how much it is.
func extentsOf(f *os.File, size int64) (all []extent, sum int64) {
	whole := []extent{{0, size}}
	for at := int64(0); at < size; {
		begin, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole up to the end
		}
		end, err2 := unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE)
		if errors.Join(err, err2) != nil || len(all) == maxExtents {
			return whole, size // this file system does not say
		}
		if begin >= size {
			break
		}
		e := extent{begin, min(end, size) - begin}
		all, sum, at = append(all, e), sum+e.length, end
	}
	return all, sum
}

// holes writes into a header that a file of size bytes has its data at extents.
func holes(h *tar.Header, all []extent, sum int64) {
	if sum == h.Size {
		return
	}
	words := make([]string, len(all))
	for i, e := range all {
		words[i] = fmt.Sprintf("%d+%d", e.at, e.length)
	}
	h.PAXRecords = map[string]string{sizeRecord: strconv.FormatInt(h.Size, 10), extentRecord: strings.Join(words, " ")}
	h.Size = sum
}

var errHoles = errors.New("the archive's word on where a file has data cannot be right")

// extentsIn reads what holes wrote: the size of a file and where its data lies.
func extentsIn(h *tar.Header) (size int64, all []extent, err error) {
	text, ok := h.PAXRecords[sizeRecord]
	if !ok {
		return h.Size, []extent{{0, h.Size}}, nil
	}
	if size, err = strconv.ParseInt(text, 10, 64); err != nil || size < 0 {
		return 0, nil, errHoles
	}
	sum, last := int64(0), int64(0)
	for _, word := range strings.Fields(h.PAXRecords[extentRecord]) {
		at, length, _ := strings.Cut(word, "+")
		a, err := strconv.ParseInt(at, 10, 64)
		n, err2 := strconv.ParseInt(length, 10, 64)
		if errors.Join(err, err2) != nil || a < last || n < 0 || n > size-a {
			return 0, nil, errHoles
		}
		all = append(all, extent{a, n})
		sum, last = sum+n, a+n
	}
	if sum != h.Size {
		return 0, nil, errHoles
	}
	return size, all, nil
}

// writeData copies the data of a file into an archive.
func writeData(ctx context.Context, out io.Writer, f *os.File, all []extent) error {
	for _, e := range all {
		n, err := io.Copy(out, until{ctx, io.NewSectionReader(f, e.at, e.length)})
		if err != nil {
			return err
		}
		if n < e.length {
			return errShorter
		}
	}
	return nil
}

// readData copies the data of a file of size bytes out of an archive.
func readData(ctx context.Context, f *os.File, in io.Reader, size int64, all []extent) error {
	for _, e := range all {
		if _, err := io.CopyN(io.NewOffsetWriter(f, e.at), until{ctx, in}, e.length); err != nil {
			return err
		}
	}
	return f.Truncate(size)
}

// until reads until its context ends.
type until struct {
	context.Context
	io.Reader
}

func (u until) Read(p []byte) (int, error) {
	if err := u.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}
