package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Times of calls.
const (
	dialWithin  = time.Second
	tableWithin = time.Second
	readWithin  = 5 * time.Second  // a value or a page
	askWithin   = time.Minute      // as far as whoever asks waits so long
	keepIdle    = 90 * time.Second // less than the server's
)

// client asks other nodes.
type client struct {
	http   http.Client
	scheme string
	token  string
	m      *metrics
}

func newClient(t Trust) *client {
	c := &client{scheme: "http", token: t.Token, m: newMetrics()}
	transport := &http.Transport{DialContext: (&net.Dialer{Timeout: dialWithin}).DialContext, TLSHandshakeTimeout: 2 * dialWithin,
		MaxIdleConnsPerHost: 64, IdleConnTimeout: keepIdle, DisableCompression: true}
	if t.Client != nil {
		c.scheme, transport.TLSClientConfig = "https", t.Client
	}
	c.http.Transport = transport
	return c
}

func (c *client) close() { c.http.CloseIdleConnections() }

// call sends one request, and counts it.
func (c *client) call(ctx context.Context, within time.Duration, to Node, path string, q url.Values, body []byte) ([]byte, error) {
	began := time.Now()
	b, err := c.send(ctx, within, to, path, q, body)
	c.m.asked(path, time.Since(began), err)
	return b, err
}

func (c *client) send(ctx context.Context, within time.Duration, to Node, path string, q url.Values, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	u := url.URL{Scheme: c.scheme, Host: to.Address, Path: path, RawQuery: q.Encode()}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	r.Header.Set("Content-Type", "application/octet-stream")
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errUnreachable, to.Name, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", errUnreachable, to.Name, err)
	case len(b) > maxReply:
		return nil, fmt.Errorf("peer: %s: the answer has more than %d bytes", to.Name, maxReply)
	case res.StatusCode == http.StatusOK:
		return b, nil
	}
	return nil, refusal(to, res.StatusCode, b)
}

// refusal is what a status means.
func refusal(by Node, status int, b []byte) error {
	const shown = 500
	text := strings.TrimSpace(string(b[:min(len(b), shown)]))
	kind := errors.New("peer: refused")
	switch status {
	case http.StatusMisdirectedRequest:
		kind = errNotMine
	case http.StatusNotImplemented:
		kind = ErrNoAnswer
	}
	return fmt.Errorf("%w: %s: status %d: %s", kind, by.Name, status, text)
}

func (c *client) table(ctx context.Context, of Node) (t Table, err error) {
	b, err := c.call(ctx, tableWithin, of, pathTable, nil, nil)
	if err == nil {
		err = unmarshal(b, &t)
	}
	return t, err
}

func (c *client) wait(ctx context.Context, to Node, at Spot, offset int64) (w waited, err error) {
	q := at.query()
	q.Set("offset", strconv.FormatInt(offset, 10))
	b, err := c.call(ctx, readWithin+waitSlice, to, pathWait, q, nil)
	if err == nil {
		err = unmarshal(b, &w)
	}
	return w, err
}

func unmarshal(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", errFormat, err)
	}
	return nil
}

// query names a partition.
func (s Spot) query() url.Values {
	return url.Values{"consumer": {s.Consumer}, "partition": {strconv.Itoa(int(s.Partition))}}
}
