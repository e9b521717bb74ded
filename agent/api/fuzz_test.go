package api

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzReadLine wants a line to be bounded, to be the only thing that is read,
// and to come back as it was when it is written again.
func FuzzReadLine(f *testing.F) {
	f.Add([]byte("{\"kind\":\"stdin\",\"container\":\"c\"}\nrest"))
	f.Add([]byte("{\"kind\":1}\n"))
	f.Add([]byte("no end"))
	f.Add(bytes.Repeat([]byte("x"), maxLine+1))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var h StreamHeader
		err := ReadLine(r, &h)
		read := len(data) - r.Len()
		switch end := bytes.IndexByte(data, '\n'); {
		case read > maxLine+1:
			t.Errorf("%d bytes read", read)
		case end < 0 && err == nil, end > maxLine && !errors.Is(err, ErrLineTooLong):
			t.Errorf("line of %d bytes: %v", end, err)
		case err == nil && read != end+1:
			t.Errorf("%d bytes read of a line of %d", read, end+1)
		case err != nil && end < 0 && !errors.Is(err, io.EOF) && !errors.Is(err, ErrLineTooLong):
			t.Errorf("no line: %v", err)
		}
		if err != nil {
			return
		}
		var buf bytes.Buffer
		var again StreamHeader
		if err := WriteLine(&buf, h); err != nil {
			t.Fatal(err)
		}
		if buf.Len() <= maxLine { // JSON may need more than the peer wrote
			if err := ReadLine(&buf, &again); err != nil || again != h {
				t.Errorf("%+v comes back as %+v, %v", h, again, err)
			}
		}
	})
}
