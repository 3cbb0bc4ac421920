package compose

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// leaves lists the decoded leaf parts of a message by the standard library: an
// independent reading of what a converted message means.
func leaves(header textproto.MIMEHeader, body []byte, depth int, fallback string) ([]string, error) {
	contentType := header.Get("Content-Type")
	if contentType == "" {
		contentType = fallback
	}
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) || depth > 40 {
		return nil, fmt.Errorf("media type: %w", err)
	}
	if media == "message/rfc822" {
		return messageLeaves(body, depth+1)
	}
	if !strings.HasPrefix(media, "multipart/") {
		decoded, err := decode(header.Get("Content-Transfer-Encoding"), body)
		return []string{media + " " + string(decoded)}, err
	}
	fallback = "text/plain"
	if media == "multipart/digest" {
		fallback = "message/rfc822"
	}
	var all []string
	r := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(p)
		if err != nil {
			return nil, err
		}
		inner, err := leaves(p.Header, content, depth+1, fallback)
		if err != nil {
			return nil, err
		}
		all = append(all, inner...)
	}
}

func decode(encoding string, body []byte) ([]byte, error) {
	switch strings.ToLower(encoding) {
	case "quoted-printable":
		return io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body)))
	case "base64":
		return io.ReadAll(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(body)))
	}
	return body, nil
}

func messageLeaves(data []byte, depth int) ([]string, error) {
	header, body := splitMessage(data)
	if string(header) == "\r\n" {
		return leaves(nil, body, depth, "text/plain")
	}
	fields, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(header))).ReadMIMEHeader()
	if err != nil && err != io.EOF {
		return nil, err
	}
	return leaves(fields, body, depth, "text/plain")
}

// checkConverted holds the promise of sevenBit against the standard library.
func checkConverted(t *testing.T, in, out []byte) {
	t.Helper()
	if !ascii(out) {
		t.Fatalf("8-bit byte in %q", out)
	}
	_, body := splitMessage(out)
	for line := range bytes.SplitSeq(body, []byte("\r\n")) {
		// A long header line of a part stays: folding it is not our business.
		if len(line) > maxLine && !bytes.Contains(in, line) {
			t.Fatalf("line of %d bytes", len(line))
		}
	}
	want, err := messageLeaves(in, 0)
	if err != nil {
		return // the standard library is stricter about what it reads
	}
	got, err := messageLeaves(out, 0)
	if err != nil {
		t.Fatalf("converted message cannot be read: %v\n%q", err, out)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("content differs\ngot  %q\nwant %q\nof   %q\nto   %q", got, want, in, out)
	}
}

// TestConvert converts testdata/convert/*.eml to their .7bit; those without one
// must be left alone.
func TestConvert(t *testing.T) {
	files, err := filepath.Glob("testdata/convert/*.eml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in := []byte(crlfText(string(text)))
			header, body := splitMessage(in)
			out, ok := sevenBit(header, body)
			if kept := strings.HasPrefix(filepath.Base(file), "keep-"); kept == ok {
				t.Fatalf("converted: %v", ok)
			}
			if !ok {
				return
			}
			checkConverted(t, in, out)
			golden(t, strings.TrimSuffix(file, ".eml")+".7bit", out)
			header, body = splitMessage(out)
			if again, ok := sevenBit(header, body); !ok || !bytes.Equal(again, out) {
				t.Error("converting again changes it")
			}
		})
	}
}

func FuzzConvert(f *testing.F) {
	files, err := filepath.Glob("testdata/convert/*.eml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		in := crlfLines(string(text))
		header, body := splitMessage(in)
		if out, ok := sevenBit(header, body); ok {
			checkConverted(t, in, out)
		}
	})
}

func FuzzQuoted(f *testing.F) {
	f.Add([]byte("a=b \r\nFrom me\t\r\n"))
	f.Add([]byte(strings.Repeat("x", 76) + "\r\n" + strings.Repeat("\xe4", 30)))
	f.Add([]byte("bare\rand\nends \r\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		out := appendQuoted(nil, data)
		for line := range bytes.SplitSeq(out, []byte("\r\n")) {
			if len(line) > encodedLine || !ascii(line) || bytes.HasPrefix(line, []byte("From ")) || bytes.HasSuffix(line, []byte(" ")) {
				t.Fatalf("bad line %q", line)
			}
		}
		back, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(out)))
		if err != nil || !bytes.Equal(back, data) {
			t.Fatalf("%q came back as %q, %v", data, back, err)
		}
		out = appendBase64(nil, data)
		back, err = base64.StdEncoding.DecodeString(string(out))
		if err != nil || !bytes.Equal(back, data) || longLine(out) {
			t.Fatalf("%q came back as %q, %v", data, back, err)
		}
	})
}
