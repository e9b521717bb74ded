package api

import (
	"bytes"
	"io"
	"testing"
)

// FuzzReadQuery wants what is read to come back as it was, and nothing after it
// to be read.
func FuzzReadQuery(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x07u\x00\x03abcrest"))
	f.Add([]byte("\x00\x00\x00\x07t\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x07x\x00\x01a"))
	f.Add([]byte("\x00\x00\x00\x07u\xff\xffshort"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		q, err := ReadQuery(r)
		if err != nil {
			if err == io.EOF && len(data) > 0 && len(data) >= queryHeader {
				t.Errorf("the end of the stream in the middle of a query of %d bytes", len(data))
			}
			return
		}
		var buf bytes.Buffer
		if err := WriteQuery(&buf, q); err != nil {
			t.Fatal(err)
		}
		if read := data[:len(data)-r.Len()]; !bytes.Equal(buf.Bytes(), read) {
			t.Errorf("%q comes back as %q", read, buf.Bytes())
		}
	})
}
