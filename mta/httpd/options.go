package httpd

import (
	"errors"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/injectapi"
)

// The scopes of an API key.
const (
	ScopeInject = "inject" // store contents, inject messages
	ScopeRead   = "read"   // read what became of messages
	ScopeAdmin  = "admin"  // all of these
)

// Options configure HTTP injection.
type Options struct {
	Listen         []string       `toml:"listen" doc:"Addresses to listen on, host:port or unix:/path; none turns HTTP injection off."`
	CertFile       string         `toml:"cert_file" doc:"PEM file of the certificate chain; with key_file it turns on HTTPS on every TCP address."`
	KeyFile        string         `toml:"key_file" doc:"PEM file of the certificate's private key."`
	MaxRequest     units.Size     `toml:"max_request" doc:"Largest request body in bytes, counted after decompression; a larger one is refused with 413."`
	Memory         units.Size     `toml:"memory" doc:"Bytes of memory that all request bodies may take together; above it requests are refused with 503."`
	MaxRecipients  int            `toml:"max_recipients" doc:"Most recipients of one request, at most 10000."`
	MaxConnections int            `toml:"max_connections" doc:"Most connections of one listener; further ones wait to be accepted."`
	HeaderTimeout  units.Duration `toml:"header_timeout" doc:"How long a request's header may take to arrive."`
	ReadTimeout    units.Duration `toml:"read_timeout" doc:"How long a whole request may take to arrive."`
	WriteTimeout   units.Duration `toml:"write_timeout" doc:"How long a request may take from its arrival until its response is sent."`
	IdleTimeout    units.Duration `toml:"idle_timeout" doc:"How long a connection may wait for its next request."`
	RetryAfter     units.Duration `toml:"retry_after" doc:"What a 503 response tells the client to wait, in whole seconds."`
	AuthFailures   int            `toml:"auth_failures" doc:"Wrong keys that one address may present within auth_window before it gets 429 instead of 401."`
	AuthWindow     units.Duration `toml:"auth_window" doc:"The time over which wrong keys are counted."`
	Keys           []Key          `toml:"keys" doc:"API keys; without any, every request is refused."`
}

// Key is an API key. The key itself is 256 random bits and is not stored.
type Key struct {
	Name   string   `toml:"name" doc:"Name of the key in logs and events."`
	Tenant string   `toml:"tenant" doc:"Tenant whose messages it injects and sees."`
	SHA256 string   `toml:"sha256" doc:"SHA-256 of the key in hexadecimal, as godwit config new-key prints it."`
	Scopes []string `toml:"scopes" doc:"What it may do: inject, read, admin (all). Empty means inject and read."`
}

// DefaultOptions returns the options used when nothing is configured.
func DefaultOptions() Options {
	return Options{
		Listen:         []string{"127.0.0.1:8025"},
		MaxRequest:     32 << 20,
		Memory:         256 << 20,
		MaxRecipients:  injectapi.MaxRecipients,
		MaxConnections: 1000,
		HeaderTimeout:  units.Duration(10 * time.Second),
		ReadTimeout:    units.Duration(time.Minute),
		WriteTimeout:   units.Duration(time.Minute),
		IdleTimeout:    units.Duration(2 * time.Minute),
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
	for _, v := range []struct {
		key string
		got int64
	}{
		{"max_request", int64(o.MaxRequest)}, {"max_recipients", int64(o.MaxRecipients)},
		{"max_connections", int64(o.MaxConnections)}, {"header_timeout", int64(o.HeaderTimeout)},
		{"read_timeout", int64(o.ReadTimeout)}, {"write_timeout", int64(o.WriteTimeout)}, {"idle_timeout", int64(o.IdleTimeout)},
		{"retry_after", int64(o.RetryAfter)}, {"auth_failures", int64(o.AuthFailures)}, {"auth_window", int64(o.AuthWindow)},
	} {
		if v.got <= 0 {
			return fmt.Errorf("%s: must be positive", v.key)
		}
	}
	if o.MaxRecipients > injectapi.MaxRecipients {
		return fmt.Errorf("max_recipients: must be at most %d", injectapi.MaxRecipients)
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
	return wire.Credentials(entries, []string{ScopeInject, ScopeRead, ScopeAdmin}, []string{ScopeInject, ScopeRead})
}
