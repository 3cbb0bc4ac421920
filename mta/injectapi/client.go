package injectapi

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strings"

	"github.com/godwit-mta/godwit/internal/wire"
)

// ClientOptions is how to reach a server; see wire.ClientOptions.
type ClientOptions = wire.ClientOptions

// Client calls the injection API. Requests are compressed by gzip, put-off
// ones (429, 503) repeated after their Retry-After, and every POST carries an
// idempotency key, so that repeating one after a broken connection cannot
// send mail twice. It is safe for concurrent use.
type Client struct{ wire *wire.Client }

// NewClient returns a client of the server at o.URL with the API key o.Key.
func NewClient(o ClientOptions) (*Client, error) {
	c, err := wire.NewClient(o)
	if err != nil {
		return nil, err
	}
	return &Client{wire: c}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.wire.Close() }

// StoreContent stores content for later batches. With an empty key it makes
// one, which covers the repeats of this call; give your own to cover a restart too.
func (c *Client) StoreContent(ctx context.Context, content Content, key string) (*ContentResponse, error) {
	var out ContentResponse
	if err := c.post(ctx, PathContents, content, key, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Send accepts the messages of req. The answer comes when they are durable;
// look at its Rejected. The key is as in StoreContent.
func (c *Client) Send(ctx context.Context, req MessagesRequest, key string) (*MessagesResponse, error) {
	var out MessagesResponse
	if err := c.post(ctx, PathMessages, req, key, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Status tells what became of a message.
func (c *Client) Status(ctx context.Context, id string) (*Status, error) {
	var out Status
	path := strings.ReplaceAll(PathMessage, "{id}", id)
	if _, err := c.wire.Do(ctx, wire.Call{Method: http.MethodGet, Path: path}, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

func (c *Client) post(ctx context.Context, path string, in any, key string, out any) error {
	if key == "" {
		key = rand.Text()
	}
	_, err := c.wire.Do(ctx, wire.Call{
		Method: http.MethodPost, Path: path, Body: in, Safe: true,
		Header: http.Header{HeaderIdempotencyKey: {key}},
	}, out)
	return err
}

// Code returns the code of the first error that the server answered with, "" for any other error.
func Code(err error) string {
	var p *wire.Problem
	if errors.As(err, &p) && len(p.Errors) > 0 {
		return p.Errors[0].Code
	}
	return ""
}
