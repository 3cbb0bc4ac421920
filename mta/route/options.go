package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/mta/dns"
)

// Options is what a configuration file can set.
type Options struct {
	Routes        []Static          `toml:"routes" doc:"routes that do not ask for MX records"`
	Providers     []Provider        `toml:"providers" doc:"groups of sites that share limits, before those of the rule packs; the first that matches counts"`
	Port          int               `toml:"port" doc:"TCP port of mail exchangers"`
	TLS           string            `toml:"tls" doc:"STARTTLS for domains without a rule of their own: opportunistic, required, verify or none"`
	TLSDomains    map[string]string `toml:"tls_domains" doc:"STARTTLS by recipient domain or .suffix, values as for tls"`
	OwnNames      []string          `toml:"own_names" doc:"names besides the hostname under which we are an MX ourselves"`
	OwnAddresses  []string          `toml:"own_addresses" doc:"addresses besides the listeners at which we are an MX ourselves, ip or ip:port (such as the outer side of a load balancer)"`
	AllowLiterals bool              `toml:"allow_literals" doc:"deliver to address literals such as user@[192.0.2.1]"`
	MinAge        units.Duration    `toml:"min_age" doc:"shortest time a route is kept, whatever the DNS says"`
	MaxAge        units.Duration    `toml:"max_age" doc:"longest time a route is kept, whatever the DNS says"`
	CacheEntries  int               `toml:"cache_entries" doc:"number of domains whose routes are kept in memory"`
}

// Static is one static route.
type Static struct {
	Domain string   `toml:"domain" doc:"recipient domain, .suffix for all its subdomains, or * for all"`
	Hosts  []string `toml:"hosts" doc:"hosts in order of preference, each name, name:port, ip or [ip]:port"`
	TLS    string   `toml:"tls" doc:"STARTTLS for this route: opportunistic, required, verify or none; empty means as tls and tls_domains say"`
}

// Provider is one group of sites.
type Provider struct {
	Name     string   `toml:"name" doc:"name of the provider in limits, events and metrics"`
	MXSuffix []string `toml:"mx_suffix" doc:"domain suffixes; a site belongs to the provider when each of its MX hosts ends in one of them"`
	TLS      string   `toml:"tls" doc:"STARTTLS for its sites where neither the route nor tls_domains says otherwise; empty means as tls says"`
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{
		Port:         25,
		TLS:          "opportunistic",
		MinAge:       units.Duration(time.Minute),
		MaxAge:       units.Duration(time.Hour),
		CacheEntries: 20_000,
	}
}

// Validate reports the first bad value; the error begins with its key.
func (o Options) Validate() error {
	_, err := newTable(o, Deps{})
	return err
}

func (o Options) validateNumbers() error {
	switch {
	case o.Port < 1 || o.Port > 65535:
		return errors.New("port: must be 1 to 65535")
	case o.MinAge < 0:
		return errors.New("min_age: must not be negative")
	case o.MaxAge <= 0 || o.MaxAge < o.MinAge:
		return errors.New("max_age: must be positive and not below min_age")
	case o.CacheEntries < 16:
		return errors.New("cache_entries: must be 16 or more")
	}
	return nil
}

// tlsMode reads the name of a TLS mode.
func tlsMode(s string) (mail.TLSMode, error) {
	switch s {
	case "opportunistic":
		return mail.TLSOpportunistic, nil
	case "required":
		return mail.TLSRequired, nil
	case "verify":
		return mail.TLSVerify, nil
	case "none":
		return mail.TLSNone, nil
	}
	return 0, fmt.Errorf("%q is none of opportunistic, required, verify, none", s)
}

// tlsName is the inverse of tlsMode.
func tlsName(m mail.TLSMode) string {
	return [...]string{"opportunistic", "required", "verify", "none"}[m]
}

// hostPort reads name, name:port, ip or [ip]:port. The port is 0 if none is given.
func hostPort(s string) (name string, port uint16, err error) {
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return ip.String(), 0, nil
	}
	host := s
	if strings.Contains(s, ":") {
		var digits string
		if host, digits, err = net.SplitHostPort(s); err != nil {
			return "", 0, fmt.Errorf("%q is not name, name:port, ip or [ip]:port", s)
		}
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || n == 0 {
			return "", 0, fmt.Errorf("%q has no port from 1 to 65535", s)
		}
		port = uint16(n)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String(), port, nil
	}
	if host, err = pattern(host); err != nil || strings.HasPrefix(host, ".") {
		return "", 0, fmt.Errorf("%q is not name, name:port, ip or [ip]:port", s)
	}
	return host, port, nil
}

// pattern normalises a domain or .suffix of the configuration.
func pattern(s string) (string, error) {
	bare, isSuffix := strings.CutPrefix(s, ".")
	ascii, err := dns.ASCII(bare)
	if err != nil {
		return "", fmt.Errorf("%q is not a domain: %w", s, err)
	}
	if ascii == "" || strings.ContainsAny(ascii, " *@:/[]") || strings.Contains(ascii, "..") || strings.HasPrefix(ascii, ".") {
		return "", fmt.Errorf("%q is not a domain", s)
	}
	if isSuffix {
		return "." + ascii, nil
	}
	return ascii, nil
}
