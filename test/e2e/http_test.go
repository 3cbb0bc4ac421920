//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// response is what the last HTTP request was answered.
type response struct {
	status int
	header http.Header
	body   string
}

// request makes "PATH [key=] [idem=] [type=] [to=] [gzip]".
func (r *run) request(method, args, body string) error {
	words := strings.Fields(args)
	if len(words) == 0 {
		return errors.New("no path")
	}
	address := ""
	if len(r.engine.Ports.HTTP) > 0 {
		address = r.engine.Ports.HTTP[0]
	}
	header := http.Header{}
	if body != "" {
		header.Set("Content-Type", "application/json")
	}
	data := []byte(body)
	for _, w := range words[1:] {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "key":
			header.Set("Authorization", "Bearer "+secret(value))
		case "idem":
			header.Set("Idempotency-Key", value)
		case "type":
			header.Set("Content-Type", value)
		case "gzip":
			header.Set("Content-Encoding", "gzip")
			data = compress(data)
		case "to":
			switch address = r.engine.Ports.Ops; value {
			case "admin":
				address = r.engine.Ports.Admin[0]
			case "pipeline":
				address = r.engine.Ports.Pipeline[0]
				header.Set("revision", "2026-07-15")
				header.Set("Content-Type", "application/vnd.api+json")
			}
		default:
			return fmt.Errorf("no option %s", name)
		}
	}
	return r.roundTrip(method, address, words[0], header, data)
}

func (r *run) roundTrip(method, address, path string, header http.Header, body []byte) error {
	client := &http.Client{Timeout: rig.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	url := "http://" + address + path
	if socket, ok := strings.CutPrefix(address, "unix:"); ok {
		url = "http://unix" + path
		client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	r.response = &response{resp.StatusCode, resp.Header, string(text)}
	r.doc = parseJSON(text)
	return nil
}

func compress(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b) // memory does not fail
	_ = z.Close()
	return out.Bytes()
}

// parseJSON is nil for what is not JSON.
func parseJSON(text []byte) any {
	var v any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return nil
	}
	return v
}

func (r *run) status(args string) error {
	if r.response == nil {
		return errors.New("no response yet")
	}
	if got := strconv.Itoa(r.response.status); got != args {
		return fmt.Errorf("status is %s, not %s: %s", got, args, shorten(r.response.body))
	}
	return nil
}

func (r *run) headerField(args string) error {
	name, condition := cut(args)
	return r.compare(r.response.header.Get(name), condition)
}

// jsonStep looks at the document: "PATH = TEXT", "~", "!~", "len N", "absent", "-> variable".
func (r *run) jsonStep(args string) error {
	path, condition := cut(args)
	op, want := cut(condition)
	v, ok := lookup(r.doc, path)
	if op == "absent" {
		if ok {
			return fmt.Errorf("%s is %v", path, v)
		}
		return nil
	}
	if !ok {
		text, _ := json.Marshal(r.doc)
		return fmt.Errorf("no %s in %s", path, shorten(string(text)))
	}
	switch op {
	case "->":
		r.vars[want] = plain(v)
		return nil
	case "len":
		n := -1
		switch v := v.(type) {
		case []any:
			n = len(v)
		case map[string]any:
			n = len(v)
		}
		if strconv.Itoa(n) != want {
			return fmt.Errorf("%s has %d elements, not %s", path, n, want)
		}
		return nil
	}
	if err := r.compare(plain(v), condition); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func plain(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case map[string]any, []any:
		b, _ := json.Marshal(v)
		return string(b)
	}
	return fmt.Sprint(v)
}

// lookup follows a path such as errors.0.code; "." is the document itself, -1 the last element.
func lookup(v any, path string) (any, bool) {
	if path == "." {
		return v, v != nil
	}
	for part := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = at[part]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(part)
			if i < 0 {
				i += len(at)
			}
			if err != nil || i < 0 || i >= len(at) {
				return nil, false
			}
			v = at[i]
		default:
			return nil, false
		}
	}
	return v, true
}
