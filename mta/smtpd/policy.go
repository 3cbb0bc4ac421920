package smtpd

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/pelletier/go-toml/v2"
)

// policy says who may do what. It is never changed; a reload puts another in its place.
type policy struct {
	opts  Options
	users map[string]User
	relay []relayNetwork // the most specific first
}

type relayNetwork struct {
	prefix netip.Prefix
	Network
}

// rights are what a client may do, by its login or else by its address.
type rights struct {
	relay     bool // send to anybody, and be believed in X-Godwit-* fields
	tenant    string
	anyTenant bool
}

func newPolicy(o Options) (*policy, error) {
	p := &policy{opts: o, users: make(map[string]User)}
	users := o.Users
	if o.UsersFile != "" {
		more, err := readUsers(o.UsersFile)
		if err != nil {
			return nil, fmt.Errorf("users_file: %w", err)
		}
		users = append(slices.Clone(users), more...)
		if err := validateUsers("users", users); err != nil {
			return nil, fmt.Errorf("users_file: with %s: %w", o.UsersFile, err)
		}
	}
	for _, u := range users {
		p.users[u.Name] = u
	}
	for _, n := range o.RelayFrom {
		prefix, err := parseNetwork(n.Network)
		if err != nil {
			return nil, fmt.Errorf("relay_from: %w", err)
		}
		p.relay = append(p.relay, relayNetwork{prefix, n})
	}
	slices.SortStableFunc(p.relay, func(a, b relayNetwork) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) })
	return p, nil
}

// readUsers reads a TOML file with a list named users.
func readUsers(name string) ([]User, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var file struct {
		Users []User `toml:"users"`
	}
	d := toml.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) && len(strict.Errors) > 0 {
			row, column := strict.Errors[0].Position()
			return nil, fmt.Errorf("%s:%d:%d: unknown key %v", name, row, column, strict.Errors[0].Key())
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return file.Users, nil
}

// rights tells what the client at peer, logged in as user (or "" for not), may
// do. A login that is no longer in the configuration counts for nothing.
func (p *policy) rights(peer netip.Addr, user string) rights {
	if user != "" {
		u, ok := p.users[user]
		return rights{relay: ok, tenant: u.Tenant, anyTenant: u.MaySetTenant}
	}
	if !peer.IsValid() {
		return rights{}
	}
	for _, n := range p.relay {
		if n.prefix.Contains(peer) {
			return rights{relay: true, tenant: n.Tenant, anyTenant: n.MaySetTenant}
		}
	}
	return rights{}
}
