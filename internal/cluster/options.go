package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Options is what a configuration file can set. Without bind, nodes and join there is no cluster.
type Options struct {
	Name      string `toml:"name" doc:"Name of this node, unique in the cluster; empty takes the system's hostname."`
	Zone      string `toml:"zone" doc:"Zone of this node, such as a data centre; empty takes it from the entry in nodes."`
	Bind      string `toml:"bind" doc:"IP:port of gossip, UDP and TCP; empty turns the cluster off."`
	Advertise string `toml:"advertise" doc:"IP:port at which others reach bind, where it is another (behind NAT, or with a wildcard bind)."`
	KeyFile   string `toml:"key_file" doc:"File with the cluster's key, 32 random bytes in base64, mode 600; it encrypts gossip and lets nodes know each other. Required unless bind is a loopback address."`
	Nodes     []Node `toml:"nodes" doc:"The nodes that own limits, all of them, in every node's file alike; they are also where to join."`
	Join      Join   `toml:"join" doc:"Further ways to find the cluster."`
}

// Node is one configured node.
type Node struct {
	Name    string `toml:"name" doc:"The node's name."`
	Address string `toml:"address" doc:"Its gossip address, host:port."`
	Link    string `toml:"link" doc:"Address of its grant link, host:port; needed with two nodes or more."`
	Zone    string `toml:"zone" doc:"Its zone."`
}

// Join is how to find a cluster besides by the nodes. Both are looked at again and again, so that parts
// that lost each other meet again.
type Join struct {
	DNS  string `toml:"dns" doc:"Name, or name:port, whose A and AAAA records are members; the port is that of bind if none is given."`
	File string `toml:"file" doc:"File with one member's host:port a line; # begins a comment."`
}

// DefaultOptions returns the defaults: no cluster.
func DefaultOptions() Options { return Options{} }

// Enabled reports whether there is a cluster.
func (o Options) Enabled() bool {
	return o.Bind != "" || len(o.Nodes) > 0 || o.Join != Join{}
}

// Validate reports the first bad value; the error begins with its key. It opens no file.
func (o Options) Validate() error {
	if o.Name != "" && !isName(o.Name) {
		return fmt.Errorf("name: %q is not a name (%s)", o.Name, nameRule)
	}
	if o.Zone != "" && !isName(o.Zone) {
		return fmt.Errorf("zone: %q is not a name (%s)", o.Zone, nameRule)
	}
	if err := o.validateNodes(); err != nil {
		return err
	}
	if o.Join.DNS != "" {
		if _, _, err := splitHost(o.Join.DNS, 1); err != nil {
			return fmt.Errorf("join.dns: %w", err)
		}
	}
	if !o.Enabled() {
		return nil
	}
	return o.validateAddresses()
}

func (o Options) validateAddresses() error {
	if o.Bind == "" {
		return errors.New("bind: must be set where nodes or join are")
	}
	bind, err := netip.ParseAddrPort(o.Bind)
	if err != nil {
		return fmt.Errorf("bind: %q is not IP:port", o.Bind)
	}
	loopback := bind.Addr().IsLoopback()
	if o.Advertise != "" {
		a, err := netip.ParseAddrPort(o.Advertise)
		if err != nil || a.Addr().IsUnspecified() || a.Port() == 0 {
			return fmt.Errorf("advertise: %q is not IP:port", o.Advertise)
		}
		loopback = loopback && a.Addr().IsLoopback()
	}
	if o.KeyFile == "" && !loopback {
		return errors.New("key_file: required unless bind is a loopback address (godwit cluster new-key makes one)")
	}
	return nil
}

func (o Options) validateNodes() error {
	names, addresses := map[string]int{}, map[string]int{}
	for i, n := range o.Nodes {
		key := fmt.Sprintf("nodes[%d].", i)
		if !isName(n.Name) {
			return fmt.Errorf("%sname: %q is not a name (%s)", key, n.Name, nameRule)
		}
		if other, twice := names[n.Name]; twice {
			return fmt.Errorf("%sname: %s is also that of nodes[%d]", key, n.Name, other)
		}
		names[n.Name] = i
		if err := checkHostPort(n.Address); err != nil {
			return fmt.Errorf("%saddress: %w", key, err)
		}
		if other, twice := addresses[n.Address]; twice {
			return fmt.Errorf("%saddress: %s is also that of nodes[%d]", key, n.Address, other)
		}
		addresses[n.Address] = i
		if n.Link != "" || len(o.Nodes) > 1 {
			if err := checkHostPort(n.Link); err != nil {
				return fmt.Errorf("%slink: %w", key, err)
			}
		}
		if n.Zone != "" && !isName(n.Zone) {
			return fmt.Errorf("%szone: %q is not a name (%s)", key, n.Zone, nameRule)
		}
	}
	return nil
}

const (
	maxName  = 64
	maxHost  = 128
	nameRule = "1 to 64 of a-z A-Z 0-9 . _ -"
)

// isName reports whether s may name a node, a zone or a role.
func isName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c))
	})
}

// checkHostPort insists on both parts.
func checkHostPort(s string) error {
	_, _, err := splitHost(s, 0)
	return err
}

// splitHost cuts host:port. With a fallback a bare host is taken too.
func splitHost(s string, fallback uint16) (host string, port uint16, err error) {
	bad := fmt.Errorf("%q is not host:port", s)
	host, digits, err := net.SplitHostPort(s)
	if err != nil && fallback != 0 && !strings.ContainsAny(s, ":[]") {
		host, digits, err = s, strconv.Itoa(int(fallback)), nil
	}
	if err != nil || host == "" || len(host) > maxHost || strings.ContainsAny(host, " \t/\"\\<>&") {
		return "", 0, bad
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 {
		return "", 0, bad
	}
	return host, uint16(n), nil
}
