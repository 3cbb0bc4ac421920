package api

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/pipeline/api/quota"
)

// The scopes of an API key.
const (
	ScopeRead  = "read"  // look at profiles, events, counts
	ScopeWrite = "write" // send events, change profiles
)

// Options configure the API.
type Options struct {
	Listen         []string       `toml:"listen" doc:"Addresses to listen on, host:port or unix:/path; none turns the API off."`
	CertFile       string         `toml:"cert_file" doc:"PEM file of the certificate chain; with key_file it turns on HTTPS on every TCP address."`
	KeyFile        string         `toml:"key_file" doc:"PEM file of the certificate's private key."`
	PublicURL      string         `toml:"public_url" doc:"What clients call the API, such as https://api.example.com, for links in answers. Empty: as the request named it."`
	MaxRequest     units.Size     `toml:"max_request" doc:"Largest request body in bytes, counted after decompression; a larger one is refused with 413."`
	Memory         units.Size     `toml:"memory" doc:"Bytes of memory that all request bodies may take together; above it requests are refused with 503."`
	MaxConnections int            `toml:"max_connections" doc:"Most connections of one listener; further ones wait to be accepted."`
	HeaderTimeout  units.Duration `toml:"header_timeout" doc:"How long a request's header may take to arrive."`
	ReadTimeout    units.Duration `toml:"read_timeout" doc:"How long a whole request may take to arrive."`
	WriteTimeout   units.Duration `toml:"write_timeout" doc:"How long a request may take from its arrival until its response is sent."`
	IdleTimeout    units.Duration `toml:"idle_timeout" doc:"How long a connection may wait for its next request."`
	WaitVisible    units.Duration `toml:"wait_visible" doc:"How long a write of a profile or list waits until it can be read, before it is answered from the request alone."`
	RetryAfter     units.Duration `toml:"retry_after" doc:"What a 503 response tells the client to wait, in whole seconds."`
	AuthFailures   int            `toml:"auth_failures" doc:"Wrong keys that one address may present within auth_window before it gets 429 instead of 401."`
	AuthWindow     units.Duration `toml:"auth_window" doc:"The time over which wrong keys are counted."`
	Keys           []Key          `toml:"keys" doc:"API keys; without any, every request is refused."`
	Limits         []quota.Rule   `toml:"limits" doc:"Limits on the rate of requests; none by default."`
}

// Key is an API key. The key itself is 256 random bits and is not stored.
type Key struct {
	Name   string   `toml:"name" doc:"Name of the key in logs."`
	Tenant string   `toml:"tenant" doc:"Tenant whose data it reads and writes."`
	SHA256 string   `toml:"sha256" doc:"SHA-256 of the key in hexadecimal, as godwit config new-key prints it."`
	Scopes []string `toml:"scopes" doc:"What it may do: read, write. Empty means both."`
}

// DefaultOptions returns the options used when nothing is configured.
func DefaultOptions() Options {
	return Options{
		Listen:         []string{"127.0.0.1:8028"},
		MaxRequest:     5 << 20,
		Memory:         256 << 20,
		MaxConnections: 2000,
		HeaderTimeout:  units.Duration(10 * time.Second),
		ReadTimeout:    units.Duration(time.Minute),
		WriteTimeout:   units.Duration(time.Minute),
		IdleTimeout:    units.Duration(2 * time.Minute),
		WaitVisible:    units.Duration(2 * time.Second),
		RetryAfter:     units.Duration(5 * time.Second),
		AuthFailures:   20,
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
	if (o.CertFile == "") != (o.KeyFile == "") {
		return errors.New("cert_file: must be set together with key_file")
	}
	if u, err := url.Parse(o.PublicURL); o.PublicURL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return fmt.Errorf("public_url: %q is not the URL of a site", o.PublicURL)
	}
	for _, v := range []struct {
		key string
		got int64
	}{
		{"max_request", int64(o.MaxRequest)}, {"max_connections", int64(o.MaxConnections)}, {"header_timeout", int64(o.HeaderTimeout)},
		{"read_timeout", int64(o.ReadTimeout)}, {"write_timeout", int64(o.WriteTimeout)}, {"idle_timeout", int64(o.IdleTimeout)},
		{"wait_visible", int64(o.WaitVisible)}, {"retry_after", int64(o.RetryAfter)}, {"auth_failures", int64(o.AuthFailures)}, {"auth_window", int64(o.AuthWindow)},
	} {
		if v.got <= 0 {
			return fmt.Errorf("%s: must be positive", v.key)
		}
	}
	if o.WaitVisible >= o.WriteTimeout {
		return fmt.Errorf("wait_visible: must be below write_timeout (%v)", o.WriteTimeout)
	}
	if o.Memory < o.MaxRequest {
		return fmt.Errorf("memory: must be at least max_request (%v)", o.MaxRequest)
	}
	_, err := o.credentials()
	return err
}

func (o Options) credentials() ([]wire.Credential, error) {
	entries := make([]wire.Entry, len(o.Keys))
	for i, k := range o.Keys {
		entries[i] = wire.Entry(k)
	}
	return wire.Credentials(entries, []string{ScopeRead, ScopeWrite}, []string{ScopeRead, ScopeWrite})
}
