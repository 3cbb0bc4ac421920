package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Client calls an API of this project. It repeats a call that the server put
// off (429, 503) and, where that is safe, one whose connection broke.
type Client struct {
	base     *url.URL
	key      string
	http     *http.Client
	attempts int
	maxWait  time.Duration
}

// ClientOptions is how to reach an API.
type ClientOptions struct {
	// URL is http://host:port, https://host:port or unix:/path/to/socket.
	URL string
	// Key is sent as a bearer token; empty sends none.
	Key string
	// Attempts is how often a call is tried in all. The default is 5.
	Attempts int
	// MaxWait bounds one wait between attempts, whatever Retry-After says. The default is 30 s.
	MaxWait time.Duration
	// HTTP is the client to use. The default has no overall timeout: use contexts.
	HTTP *http.Client
}

// NewClient returns a client or says what is wrong with the URL.
func NewClient(o ClientOptions) (*Client, error) {
	c := &Client{key: o.Key, http: o.HTTP, attempts: o.Attempts, maxWait: o.MaxWait}
	raw := o.URL
	if path, unix := strings.CutPrefix(raw, "unix:"); unix {
		raw = "http://localhost"
		if c.http == nil {
			c.http = &http.Client{Transport: unixTransport(path)}
		}
	}
	base, err := url.Parse(raw)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("wire: %q is not the address of an API (http://host:port, https://host:port or unix:/path)", o.URL)
	}
	c.base = base
	if c.http == nil {
		c.http = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	}
	if c.attempts == 0 {
		c.attempts = 5
	}
	if c.maxWait == 0 {
		c.maxWait = 30 * time.Second
	}
	return c, nil
}

func unixTransport(path string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call is one request of a Client.
type Call struct {
	Method string
	Path   string
	Query  url.Values
	Header http.Header
	// Body is sent as it is, or as JSON when it is not an io.Reader. An io.Reader is sent once.
	Body any
	// Safe tells that the server does the work once however often it is asked;
	// then a broken connection is tried again too. GET always is.
	Safe bool
}

// gzipFrom is the size from which a body is worth compressing.
const gzipFrom = 1400

// Do makes the call and decodes the answer into out (nil: discards it). The
// error is a *Problem when the server answered with one. It returns the header of the answer.
func (c *Client) Do(ctx context.Context, call Call, out any) (http.Header, error) {
	resp, err := c.Stream(ctx, call)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	} else {
		err = json.NewDecoder(resp.Body).Decode(out)
	}
	if err != nil {
		return nil, fmt.Errorf("wire: answer to %s %s: %w", call.Method, call.Path, err)
	}
	return resp.Header, nil
}

// Stream makes the call and returns a successful answer, whose body the caller closes.
func (c *Client) Stream(ctx context.Context, call Call) (*http.Response, error) {
	payload, stream, header, err := encode(call)
	if err != nil {
		return nil, err
	}
	attempts := c.attempts
	if stream != nil {
		attempts = 1
	}
	for n := 1; ; n++ {
		body := stream
		if stream == nil && payload != nil {
			body = bytes.NewReader(payload)
		}
		resp, wait, err := c.once(ctx, call, header, body)
		if err == nil || wait < 0 || n >= attempts {
			return resp, err
		}
		if wait == 0 {
			wait = time.Duration(rand.Int64N(int64(100*time.Millisecond) << min(n, 8)))
		}
		timer := time.NewTimer(min(wait, c.maxWait))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, errors.Join(ctx.Err(), err)
		case <-timer.C:
		}
	}
}

func encode(call Call) (payload []byte, stream io.Reader, h http.Header, err error) {
	h = call.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if call.Body == nil {
		return nil, nil, h, nil
	}
	if r, ok := call.Body.(io.Reader); ok {
		return nil, r, h, nil
	}
	payload, err = json.Marshal(call.Body)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("wire: %w", err)
	}
	h.Set("Content-Type", "application/json")
	if len(payload) >= gzipFrom {
		if payload, err = Compress(payload); err != nil {
			return nil, nil, nil, err
		}
		h.Set("Content-Encoding", "gzip")
	}
	return payload, nil, h, nil
}

// once tries the call. With an error, wait says when to try again: below zero never, zero for our own choice.
func (c *Client) once(ctx context.Context, call Call, h http.Header, body io.Reader) (resp *http.Response, wait time.Duration, err error) {
	u := c.base.JoinPath(call.Path)
	u.RawQuery = call.Query.Encode()
	req, err := http.NewRequestWithContext(ctx, call.Method, u.String(), body)
	if err != nil {
		return nil, -1, fmt.Errorf("wire: %w", err)
	}
	req.Header = h.Clone()
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err = c.http.Do(req)
	if err != nil {
		wait = -1
		if (call.Safe || call.Method == http.MethodGet) && ctx.Err() == nil {
			wait = 0
		}
		return nil, wait, fmt.Errorf("wire: %w", err)
	}
	if resp.StatusCode < 300 {
		return resp, 0, nil
	}
	p := problemOf(resp)
	_ = resp.Body.Close()
	if p.Status != http.StatusServiceUnavailable && p.Status != http.StatusTooManyRequests {
		return nil, -1, p
	}
	return nil, p.RetryAfter, p
}

func problemOf(resp *http.Response) *Problem {
	p := &Problem{Status: resp.StatusCode}
	var doc Document
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err == nil && json.Unmarshal(b, &doc) == nil {
		p.Errors = doc.Errors
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		p.RetryAfter = time.Duration(seconds) * time.Second
	}
	return p
}
