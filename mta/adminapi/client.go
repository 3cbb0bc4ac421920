package adminapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
)

// ClientOptions is how to reach a server; see wire.ClientOptions.
type ClientOptions = wire.ClientOptions

// Client calls the admin API. An error is a *wire.Problem when the server answered with one.
type Client struct{ wire *wire.Client }

// NewClient returns a client of the server at o.URL (http://…, https://… or unix:/path).
func NewClient(o ClientOptions) (*Client, error) {
	c, err := wire.NewClient(o)
	if err != nil {
		return nil, err
	}
	return &Client{wire: c}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.wire.Close() }

// Page chooses what a list shows.
type Page struct {
	State  string // only this one; "" any
	Limit  int    // 0: the server's default
	Cursor string // Next of the page before; only for messages
}

func (p Page) values(f Filter) url.Values {
	v := url.Values{}
	for name, value := range map[string]string{"tenant": f.Tenant, "stream": f.Stream, "domain": f.Domain, "site": f.Site,
		"recipient": f.Recipient, "state": p.State, "cursor": p.Cursor} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if p.Limit > 0 {
		v.Set("limit", strconv.Itoa(p.Limit))
	}
	return v
}

// invoke makes one call; safe says that repeating it does no harm.
func invoke[T any](ctx context.Context, c *Client, safe bool, method, path string, query url.Values, body any) (*T, error) {
	out := new(T)
	_, err := c.wire.Do(ctx, wire.Call{Method: method, Path: path, Query: query, Body: body, Safe: safe}, out)
	if err != nil {
		return nil, err
	}
	return out, nil
}

func withID(path, id string) string {
	return strings.ReplaceAll(path, "{id}", url.PathEscape(id))
}

// Queues lists the scheduled queues that match.
func (c *Client) Queues(ctx context.Context, f Filter, p Page) (*QueuesResponse, error) {
	return invoke[QueuesResponse](ctx, c, true, http.MethodGet, PathQueues, p.values(f), nil)
}

// Messages lists a page of the messages that match.
func (c *Client) Messages(ctx context.Context, f Filter, p Page) (*MessagesResponse, error) {
	return invoke[MessagesResponse](ctx, c, true, http.MethodGet, PathMessages, p.values(f), nil)
}

// Message tells all about one; header adds the header of its stored body.
func (c *Client) Message(ctx context.Context, id mail.ID, header bool) (*MessageResponse, error) {
	query := url.Values{}
	if header {
		query.Set("header", "true")
	}
	return invoke[MessageResponse](ctx, c, true, http.MethodGet, withID(PathMessage, id.String()), query, nil)
}

// Body copies the stored body of a waiting message to w and tells what it is: raw, raw_template or content.
func (c *Client) Body(ctx context.Context, id mail.ID, w io.Writer) (kind string, err error) {
	resp, err := c.wire.Stream(ctx, wire.Call{Method: http.MethodGet, Path: withID(PathBody, id.String())})
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(w, resp.Body)
	return resp.Header.Get(headerKind), err
}

// Suspend stops delivery of what matches; a zero until means until resumed.
func (c *Client) Suspend(ctx context.Context, f Filter, until time.Time, reason string) (*Suspension, error) {
	in := SuspendRequest{Filter: f, Reason: reason}
	if !until.IsZero() {
		in.Until = &until
	}
	return invoke[Suspension](ctx, c, false, http.MethodPost, PathSuspensions, nil, in)
}

// Suspensions lists those in force.
func (c *Client) Suspensions(ctx context.Context) ([]Suspension, error) {
	out, err := invoke[SuspensionsResponse](ctx, c, true, http.MethodGet, PathSuspensions, nil, nil)
	if err != nil {
		return nil, err
	}
	return out.Suspensions, nil
}

// Resume ends one suspension.
func (c *Client) Resume(ctx context.Context, id string) error {
	_, err := invoke[CountResponse](ctx, c, false, http.MethodDelete, withID(PathSuspension, id), nil, nil)
	return err
}

// ResumeMatching ends the suspensions whose filter has what f sets and tells how many.
func (c *Client) ResumeMatching(ctx context.Context, f Filter) (int, error) {
	return c.count(ctx, true, PathResume, FilterRequest{Filter: f})
}

// Bounce ends messages, with a report to each reverse path, and tells how many.
func (c *Client) Bounce(ctx context.Context, f Filter, reason string) (int, error) {
	return c.count(ctx, true, PathBounce, ReasonRequest{Filter: f, Reason: reason})
}

// Retry makes messages due now and tells how many.
func (c *Client) Retry(ctx context.Context, f Filter) (int, error) {
	return c.count(ctx, true, PathRetry, FilterRequest{Filter: f})
}

func (c *Client) count(ctx context.Context, safe bool, path string, in any) (int, error) {
	out, err := invoke[CountResponse](ctx, c, safe, http.MethodPost, path, nil, in)
	if err != nil {
		return 0, err
	}
	return out.Count, nil
}

// ErrIncomplete is returned by Export when the stream ended without its confirmation.
var ErrIncomplete = errors.New("adminapi: the export broke off before its end")

// Export copies the messages that match to w, as Import reads them, and tells how many.
func (c *Client) Export(ctx context.Context, f Filter, w io.Writer) (int, error) {
	resp, err := c.wire.Stream(ctx, wire.Call{Method: http.MethodPost, Path: PathExport, Body: FilterRequest{Filter: f}})
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	n, err := strconv.Atoi(resp.Trailer.Get(TrailerExported))
	if err != nil {
		return 0, ErrIncomplete
	}
	return n, nil
}

// Import stores what Export wrote. It may be repeated: messages already there are skipped.
func (c *Client) Import(ctx context.Context, r io.Reader) (*ImportResponse, error) {
	var out ImportResponse
	_, err := c.wire.Do(ctx, wire.Call{Method: http.MethodPost, Path: PathImport, Body: r,
		Header: http.Header{"Content-Type": {typeLines}}}, &out)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// Stats tells the queue's totals.
func (c *Client) Stats(ctx context.Context) (*Stats, error) {
	return invoke[Stats](ctx, c, true, http.MethodGet, PathStats, nil, nil)
}

// Info tells what is running.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	return invoke[Info](ctx, c, true, http.MethodGet, PathInfo, nil, nil)
}

// Reload has the server read its configuration again and tells which is in force.
func (c *Client) Reload(ctx context.Context) (*Info, error) {
	return invoke[Info](ctx, c, true, http.MethodPost, PathReload, nil, nil)
}

// Drain has the server accept no more mail, or accept it again.
func (c *Client) Drain(ctx context.Context, on bool) (*Stats, error) {
	path := PathUndrain
	if on {
		path = PathDrain
	}
	return invoke[Stats](ctx, c, true, http.MethodPost, path, nil, nil)
}

// LogLevel tells how much is logged.
func (c *Client) LogLevel(ctx context.Context) (string, error) {
	out, err := invoke[LogLevel](ctx, c, true, http.MethodGet, PathLogLevel, nil, nil)
	if err != nil {
		return "", err
	}
	return out.Level, nil
}

// SetLogLevel changes how much is logged: debug, info, warn or error.
func (c *Client) SetLogLevel(ctx context.Context, level string) error {
	_, err := invoke[LogLevel](ctx, c, true, http.MethodPut, PathLogLevel, nil, LogLevel{Level: level})
	return err
}
