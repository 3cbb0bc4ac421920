package adminapi

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/internal/wire"
)

// Options configure the admin API.
type Options struct {
	Listen         []string       `toml:"listen" doc:"Addresses to listen on, host:port or unix:/path; none turns the admin API off."`
	Tokens         []Token        `toml:"tokens" doc:"Who may use it over TCP; a Unix socket needs none, its file permissions guard it."`
	Advertise      string         `toml:"advertise" doc:"Address, host:port, at which other members of the cluster reach this API to hand messages over; empty takes the first of listen that is an address of this host."`
	MaxRequest     units.Size     `toml:"max_request" doc:"Largest request body in bytes; imports have no limit."`
	MaxConnections int            `toml:"max_connections" doc:"Most connections of one listener."`
	HeaderTimeout  units.Duration `toml:"header_timeout" doc:"How long a request's header may take to arrive."`
	StallTimeout   units.Duration `toml:"stall_timeout" doc:"How long a request or response may stand still."`
	IdleTimeout    units.Duration `toml:"idle_timeout" doc:"How long a connection may wait for its next request."`
	AuthFailures   int            `toml:"auth_failures" doc:"Wrong tokens that one address may present within auth_window before it gets 429 instead of 401."`
	AuthWindow     units.Duration `toml:"auth_window" doc:"The time over which wrong tokens are counted."`
}

// Token is who may use the admin API. The token itself is 256 random bits and is not stored.
type Token struct {
	Name   string `toml:"name" doc:"Name in logs."`
	SHA256 string `toml:"sha256" doc:"SHA-256 of the token in hexadecimal, as godwit config new-key prints it."`
}

// DefaultOptions returns the options used when nothing is configured.
func DefaultOptions() Options {
	return Options{
		Listen:         []string{"127.0.0.1:8026"},
		MaxRequest:     1 << 20,
		MaxConnections: 100,
		HeaderTimeout:  units.Duration(10 * time.Second),
		StallTimeout:   units.Duration(time.Minute),
		IdleTimeout:    units.Duration(2 * time.Minute),
		AuthFailures:   10,
		AuthWindow:     units.Duration(time.Minute),
	}
}

// Validate returns an error that begins with the key it is about.
func (o Options) Validate() error {
	for _, address := range o.Listen {
		if err := wire.CheckAddress(address); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	if o.Advertise != "" {
		host, port, err := net.SplitHostPort(o.Advertise)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
			return fmt.Errorf("advertise: %q is not host:port", o.Advertise)
		}
	}
	for _, v := range []struct {
		key string
		got int64
	}{
		{"max_request", int64(o.MaxRequest)}, {"max_connections", int64(o.MaxConnections)},
		{"header_timeout", int64(o.HeaderTimeout)}, {"stall_timeout", int64(o.StallTimeout)},
		{"idle_timeout", int64(o.IdleTimeout)}, {"auth_failures", int64(o.AuthFailures)}, {"auth_window", int64(o.AuthWindow)},
	} {
		if v.got <= 0 {
			return fmt.Errorf("%s: must be positive", v.key)
		}
	}
	_, err := o.credentials()
	return err
}

// Advertised is the address by which others reach the API, of those that are served; "" if there is none. A loopback
// address counts only where the whole cluster is on loopback.
func (o Options) Advertised(served []net.Addr, loopback bool) string {
	if o.Advertise != "" {
		return o.Advertise
	}
	for _, a := range served {
		if t, ok := a.(*net.TCPAddr); ok && !t.IP.IsUnspecified() && (loopback || !t.IP.IsLoopback()) {
			return t.String()
		}
	}
	return ""
}

func (o Options) credentials() ([]wire.Credential, error) {
	out := make([]wire.Credential, len(o.Tokens))
	for i, t := range o.Tokens {
		hash, err := wire.ParseHash(t.SHA256)
		if err != nil {
			return nil, fmt.Errorf("tokens.sha256: token %q: %w", t.Name, err)
		}
		if t.Name == "" {
			return nil, errors.New("tokens.name: is missing")
		}
		out[i] = wire.Credential{Name: t.Name, SHA256: hash}
	}
	return out, nil
}
