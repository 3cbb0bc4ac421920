package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	joinAtOnce  = 4
	lookupLimit = 3 * time.Second
	maxJoinFile = 1 << 20
)

// target is an address at which a member may be.
type target struct {
	name string // if it is a configured node
	addr string // host:port
}

// joiner looks for members that are not there, at once and then at every turn.
func (c *Cluster) joiner() {
	failing := map[string]bool{}
	turn := time.NewTimer(0)
	defer turn.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-turn.C:
		}
		failing = c.joinMissing(failing)
		turn.Reset(c.pace.join)
	}
}

// joinMissing tries each address once. It returns those that failed, and warns of the ones that did not fail before.
func (c *Cluster) joinMissing(before map[string]bool) map[string]bool {
	var mu sync.Mutex
	failing := map[string]bool{}
	failed := func(addr string, err error) {
		mu.Lock()
		failing[addr] = true
		mu.Unlock()
		if !before[addr] {
			c.log.Warn("joining the cluster there failed; it is tried again and again", "address", addr, "error", err)
		}
	}
	ctx, cancel := c.untilStop()
	defer cancel()
	targets, err := c.targets()
	if err != nil {
		failed(c.o.Join.File, err)
	}
	slots := make(chan struct{}, joinAtOnce)
	var wg sync.WaitGroup
	for _, t := range targets {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := c.join(ctx, t); err != nil && ctx.Err() == nil {
				failed(t.addr, err)
			}
		})
	}
	wg.Wait()
	return failing
}

// untilStop returns a context that ends with Stop.
func (c *Cluster) untilStop() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	c.wg.Go(func() {
		select {
		case <-c.stop:
		case <-ctx.Done():
		}
		cancel()
	})
	return ctx, cancel
}

// targets are the addresses that the configuration names.
func (c *Cluster) targets() (targets []target, err error) {
	for _, n := range c.o.Nodes {
		if n.Name != c.name {
			targets = append(targets, target{name: n.Name, addr: n.Address})
		}
	}
	if c.o.Join.DNS != "" {
		targets = append(targets, target{addr: c.o.Join.DNS})
	}
	if c.o.Join.File == "" {
		return targets, nil
	}
	listed, err := readJoinFile(c.o.Join.File)
	for _, addr := range listed {
		targets = append(targets, target{addr: addr})
	}
	return targets, err
}

// readJoinFile returns the addresses of a file, those that are well-formed even when others are not.
func readJoinFile(path string) (addrs []string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxJoinFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxJoinFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if bad := checkHostPort(line); bad != nil {
			err = fmt.Errorf("%s:%d: %w", path, number, bad)
			continue
		}
		addrs = append(addrs, line)
	}
	return addrs, err
}

// join joins each address behind t that is not a member already. One that answers is enough: it knows the others.
func (c *Cluster) join(ctx context.Context, t target) error {
	if ctx.Err() != nil || t.name != "" && c.isThere(func(p *peer) bool { return p.name == t.name }) {
		return ctx.Err()
	}
	addrs, err := c.resolve(ctx, t.addr)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		addr := a.String()
		if addr == c.Addr() || ctx.Err() != nil || c.isThere(func(p *peer) bool { return p.at(a) }) {
			continue
		}
		if _, jerr := c.list.Join([]string{addr}); jerr != nil {
			err = jerr
		}
	}
	return err
}

// isThere reports whether a member that is there matches.
func (c *Cluster) isThere(match func(*peer) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers {
		if p.present && match(p) {
			return true
		}
	}
	return false
}

// at reports whether p has the address a.
func (p *peer) at(a netip.AddrPort) bool { return p.addr == a.Addr().String() && p.port == a.Port() }

// resolve finds the addresses of host:port, or of a bare host with the port of bind.
func (c *Cluster) resolve(ctx context.Context, s string) ([]netip.AddrPort, error) {
	host, port, err := splitHost(s, uint16(c.gate.GetAutoBindPort()))
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip, port)}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), port)
	}
	return addrs, nil
}
