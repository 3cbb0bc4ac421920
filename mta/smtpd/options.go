package smtpd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/passwd"
	"github.com/godwit-mta/godwit/internal/units"
)

// The TLS modes of a listener.
const (
	TLSNone     = "none"     // never
	TLSStart    = "starttls" // STARTTLS is offered (RFC 3207)
	TLSImplicit = "implicit" // from the first byte, as on port 465 (RFC 8314)
)

// Options configure SMTP injection.
type Options struct {
	Listeners []Listener `toml:"listeners" doc:"Addresses to listen on; none turns SMTP injection off."`
	RelayFrom []Network  `toml:"relay_from" doc:"Networks that may relay without authentication and whose X-Godwit-* fields are believed."`
	Users     []User     `toml:"users" doc:"Who may authenticate; authenticated clients may relay and their X-Godwit-* fields are believed."`
	UsersFile string     `toml:"users_file" doc:"TOML file with more users, as a list named users; read again at reload."`
	CertFile  string     `toml:"cert_file" doc:"PEM file of the certificate chain for listeners that name none of their own; read again at reload."`
	KeyFile   string     `toml:"key_file" doc:"PEM file of the certificate's private key."`

	MaxSize             units.Size     `toml:"max_size" doc:"Largest message in bytes, announced by SIZE; larger ones get 552 5.3.4."`
	MaxRecipients       int            `toml:"max_recipients" doc:"Most recipients of one transaction; further ones get 452 4.5.3."`
	MaxErrors           int            `toml:"max_errors" doc:"Bad commands and failed logins after which a connection is closed with 421."`
	IdleTimeout         units.Duration `toml:"idle_timeout" doc:"How long to wait for a command or for more of a message."`
	TotalTimeout        units.Duration `toml:"total_timeout" doc:"Longest life of a connection."`
	MaxConnections      int            `toml:"max_connections" doc:"Most connections of one listener, unless it has its own limit; further ones get 421 4.7.0."`
	MaxConnectionsPerIP int            `toml:"max_connections_per_ip" doc:"Most connections of one client address (IPv6: of one /64) on one listener, unless it has its own limit."`
	AuthFailures        int            `toml:"auth_failures" doc:"Failed logins of one client address within auth_window after which it is refused with 421 4.7.0."`
	AuthWindow          units.Duration `toml:"auth_window" doc:"Time over which failed logins are counted."`
	PasswordCache       units.Duration `toml:"password_cache" doc:"How long a verified password is remembered, so that a busy client costs one slow hash and not one per connection."`
}

// Listener is one address to listen on.
type Listener struct {
	Address    string `toml:"address" doc:"Address to listen on, host:port; all addresses of the host if host is empty."`
	TLS        string `toml:"tls" doc:"none, starttls or implicit; empty means starttls when there is a certificate and none otherwise."`
	Submission bool   `toml:"submission" doc:"A submission port (587, 465): MAIL needs AUTH, also from networks in relay_from."`
	// The safe value is the zero value: a listener without the key refuses AUTH in clear.
	InsecureAuth        bool     `toml:"insecure_auth" doc:"Allow AUTH without TLS: passwords travel in clear. Without it AUTH before STARTTLS gets 538 5.7.11."`
	ProxyFrom           []string `toml:"proxy_from" doc:"Networks of load balancers that begin each connection with a PROXY protocol header, version 1 or 2; required from them, refused from others."`
	XClientFrom         []string `toml:"xclient_from" doc:"Networks of proxies that may tell by XCLIENT who their client is."`
	CertFile            string   `toml:"cert_file" doc:"PEM file of this listener's own certificate chain."`
	KeyFile             string   `toml:"key_file" doc:"PEM file of its private key."`
	MaxConnections      int      `toml:"max_connections" doc:"Most connections of this listener; 0 means the common limit."`
	MaxConnectionsPerIP int      `toml:"max_connections_per_ip" doc:"Most connections of one client address; 0 means the common limit."`
}

// Network may relay without authentication.
type Network struct {
	Network      string `toml:"network" doc:"Network in CIDR form, or one address."`
	Tenant       string `toml:"tenant" doc:"Tenant of what comes from there."`
	MaySetTenant bool   `toml:"may_set_tenant" doc:"Whether X-Godwit-Tenant may name another tenant."`
}

// User may authenticate.
type User struct {
	Name         string `toml:"name" doc:"Login name."`
	PasswordHash string `toml:"password_hash" doc:"Password hash, argon2id in PHC form or bcrypt."`
	Tenant       string `toml:"tenant" doc:"Tenant of what this user injects."`
	MaySetTenant bool   `toml:"may_set_tenant" doc:"Whether X-Godwit-Tenant may name another tenant."`
}

// DefaultOptions returns the options used when nothing is configured: one
// listener on loopback, and nobody may relay.
func DefaultOptions() Options {
	return Options{
		Listeners:           []Listener{{Address: "127.0.0.1:2525"}},
		MaxSize:             50 << 20,
		MaxRecipients:       1000,
		MaxErrors:           10,
		IdleTimeout:         units.Duration(5 * time.Minute),
		TotalTimeout:        units.Duration(time.Hour),
		MaxConnections:      2000,
		MaxConnectionsPerIP: 250,
		AuthFailures:        10,
		AuthWindow:          units.Duration(10 * time.Minute),
		PasswordCache:       units.Duration(10 * time.Minute),
	}
}

// Validate returns an error that begins with the key it is about. Files are
// not read; New and Reload do that.
func (o Options) Validate() error {
	for _, v := range []struct {
		key string
		got int64
	}{
		{"max_size", int64(o.MaxSize) - 1023}, {"max_recipients", int64(o.MaxRecipients)}, {"max_errors", int64(o.MaxErrors)},
		{"idle_timeout", int64(o.IdleTimeout)}, {"total_timeout", int64(o.TotalTimeout)},
		{"max_connections", int64(o.MaxConnections)}, {"max_connections_per_ip", int64(o.MaxConnectionsPerIP)},
		{"auth_failures", int64(o.AuthFailures)}, {"auth_window", int64(o.AuthWindow)}, {"password_cache", int64(o.PasswordCache)},
	} {
		if v.got <= 0 {
			return fmt.Errorf("%s: is too small", v.key)
		}
	}
	if err := pair("", o.CertFile, o.KeyFile); err != nil {
		return err
	}
	seen := map[string]bool{}
	for i, l := range o.Listeners {
		if err := l.validate(o.CertFile != ""); err != nil {
			return fmt.Errorf("listeners[%d].%w", i, err)
		}
		if seen[l.Address] && !strings.HasSuffix(l.Address, ":0") {
			return fmt.Errorf("listeners[%d].address: %s is listed twice", i, l.Address)
		}
		seen[l.Address] = true
	}
	for i, n := range o.RelayFrom {
		if _, err := parseNetwork(n.Network); err != nil {
			return fmt.Errorf("relay_from[%d].network: %w", i, err)
		}
	}
	return validateUsers("users", o.Users)
}

func (l Listener) validate(commonCert bool) error {
	if _, _, err := net.SplitHostPort(l.Address); err != nil {
		return fmt.Errorf("address: %q is not host:port", l.Address)
	}
	if err := pair("", l.CertFile, l.KeyFile); err != nil {
		return err
	}
	switch l.TLS {
	case "", TLSNone:
	case TLSStart, TLSImplicit:
		if l.CertFile == "" && !commonCert {
			return fmt.Errorf("tls: %s needs cert_file and key_file", l.TLS)
		}
	default:
		return fmt.Errorf("tls: %q is not none, starttls or implicit", l.TLS)
	}
	if l.MaxConnections < 0 {
		return errors.New("max_connections: must not be negative")
	}
	if l.MaxConnectionsPerIP < 0 {
		return errors.New("max_connections_per_ip: must not be negative")
	}
	if _, err := parseNetworks(l.ProxyFrom); err != nil {
		return fmt.Errorf("proxy_from: %w", err)
	}
	if _, err := parseNetworks(l.XClientFrom); err != nil {
		return fmt.Errorf("xclient_from: %w", err)
	}
	return nil
}

func pair(prefix, cert, key string) error {
	if (cert == "") != (key == "") {
		return errors.New(prefix + "cert_file: must be set together with key_file")
	}
	return nil
}

func validateUsers(key string, users []User) error {
	seen := map[string]bool{}
	for i, u := range users {
		switch {
		case u.Name == "" || len(u.Name) > 255 || strings.ContainsFunc(u.Name, isControl):
			return fmt.Errorf("%s[%d].name: must be 1 to 255 printable characters", key, i)
		case seen[u.Name]:
			return fmt.Errorf("%s[%d].name: %s is listed twice", key, i, u.Name)
		}
		seen[u.Name] = true
		if err := passwd.Check(u.PasswordHash); err != nil {
			return fmt.Errorf("%s[%d].password_hash: %w", key, i, err)
		}
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// parseNetwork reads a network or a single address; bits beyond the mask are an error.
func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a network such as 10.0.0.0/8 or 2001:db8::/32", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its mask, write %s", s, p.Masked())
	}
	return p, nil
}

func parseNetworks(list []string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		p, err := parseNetwork(s)
		if err != nil {
			return nil, err
		}
		out[i] = p
	}
	return out, nil
}

// holds reports whether a is in one of the networks.
func holds(networks []netip.Prefix, a netip.Addr) bool {
	for _, p := range networks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
