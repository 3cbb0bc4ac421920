package adminapi

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/godwit-mta/godwit/internal/mail"
)

// values makes a query of what is set.
func values(pairs ...[2]string) url.Values {
	v := url.Values{}
	for _, p := range pairs {
		if p[1] != "" {
			v.Set(p[0], p[1])
		}
	}
	return v
}

// Explain tells how mail to an address goes.
func (c *Client) Explain(ctx context.Context, q ExplainQuery) (*Explanation, error) {
	return invoke[Explanation](ctx, c, true, http.MethodGet, PathExplain, values([2]string{"address", q.Address}, [2]string{"source", q.Source},
		[2]string{"pool", q.Pool}, [2]string{"tenant", q.Tenant}, [2]string{"stream", q.Stream}), nil)
}

// ExplainMessage tells why a message has not left, or what became of it.
func (c *Client) ExplainMessage(ctx context.Context, id mail.ID) (*MessageExplanation, error) {
	return invoke[MessageExplanation](ctx, c, true, http.MethodGet, withID(PathExplainMessage, id.String()), nil, nil)
}

// Pools lists pools, sources and proxies.
func (c *Client) Pools(ctx context.Context) (*PoolsResponse, error) {
	return invoke[PoolsResponse](ctx, c, true, http.MethodGet, PathPools, nil, nil)
}

// Throttles lists limited keys; every field that s sets must be equal. Limit 0 is the server's default.
func (c *Client) Throttles(ctx context.Context, s Scope, limit int) (*ThrottlesResponse, error) {
	fields := s.fields()
	q := values(fields[:]...)
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return invoke[ThrottlesResponse](ctx, c, true, http.MethodGet, PathThrottles, q, nil)
}

// Orders lists what is suspended and slowed, the newest first.
func (c *Client) Orders(ctx context.Context) ([]Order, error) {
	out, err := invoke[OrdersResponse](ctx, c, true, http.MethodGet, PathOrders, nil, nil)
	if err != nil {
		return nil, err
	}
	return out.Orders, nil
}

// SetOrder suspends or slows by hand.
func (c *Client) SetOrder(ctx context.Context, r OrderRequest) (*Order, error) {
	return invoke[Order](ctx, c, false, http.MethodPost, PathOrders, nil, r)
}

// LiftOrder ends a suspension or slowdown.
func (c *Client) LiftOrder(ctx context.Context, id string) error {
	_, err := invoke[CountResponse](ctx, c, false, http.MethodDelete, withID(PathOrder, id), nil, nil)
	return err
}

// Cluster lists the members as the node sees them.
func (c *Client) Cluster(ctx context.Context) (*ClusterResponse, error) {
	return invoke[ClusterResponse](ctx, c, true, http.MethodGet, PathCluster, nil, nil)
}

// HandoffStatus tells how far the handoff of the queue is.
func (c *Client) HandoffStatus(ctx context.Context) (*HandoffStatus, error) {
	return invoke[HandoffStatus](ctx, c, true, http.MethodGet, PathHandoff, nil, nil)
}

// StartHandoff hands the queue to other members, in the background.
func (c *Client) StartHandoff(ctx context.Context, r HandoffRequest) (*HandoffStatus, error) {
	return invoke[HandoffStatus](ctx, c, true, http.MethodPost, PathHandoff, nil, r)
}

// StopHandoff ends it; what was not moved stays.
func (c *Client) StopHandoff(ctx context.Context) (*HandoffStatus, error) {
	return invoke[HandoffStatus](ctx, c, true, http.MethodDelete, PathHandoff, nil, nil)
}
