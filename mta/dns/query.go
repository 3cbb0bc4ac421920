package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/miekg/dns"
)

// maxCNAMEQueries bounds the queries that a CNAME chain across answers costs.
const maxCNAMEQueries = 8

// flight is one running lookup that several callers may wait for.
type flight struct {
	done  chan struct{}
	entry *entry // set before done is closed
}

func isTemporary(err error) bool { return errors.Is(err, ErrTemporary) }

// failure is the entry's error as an error: nil for a positive one.
func (e *entry) failure() error {
	if e.err == nil {
		return nil
	}
	return e.err
}

// peek returns a fresh cached entry or nil.
func (r *Resolver) peek(name string, qtype uint16) *entry {
	k, bad := question(name, qtype)
	if bad != nil {
		return nil
	}
	r.mu.Lock()
	e := r.cache.get(k)
	r.mu.Unlock()
	if e == nil || !time.Now().Before(e.expires) {
		return nil
	}
	r.m.hits.Inc()
	return e
}

// lookup answers from the cache or joins a flight. The entry is positive when err is nil.
func (r *Resolver) lookup(ctx context.Context, name string, qtype uint16) (*entry, error) {
	k, bad := question(name, qtype)
	if bad != nil {
		return nil, bad
	}
	r.mu.Lock()
	old := r.cache.get(k)
	if old != nil && time.Now().Before(old.expires) {
		r.mu.Unlock()
		r.m.hits.Inc()
		return old, old.failure()
	}
	f := r.flights[k]
	if f == nil {
		if r.closed {
			r.mu.Unlock()
			return nil, r.temporary(k, "", errClosed)
		}
		f = &flight{done: make(chan struct{})}
		r.flights[k] = f
		r.busy.Add(1)
		go r.fly(f, k, old)
	}
	r.mu.Unlock()
	r.m.misses.Inc()
	select {
	case <-f.done:
		return f.entry, f.entry.failure()
	case <-ctx.Done():
		return nil, r.temporary(k, "", context.Cause(ctx))
	}
}

func (r *Resolver) temporary(k key, server string, cause error) *Error {
	return &Error{Kind: ErrTemporary, Name: trimDot(k.name), Type: dns.TypeToString[k.qtype], Server: server, Cause: cause}
}

func trimDot(s string) string {
	if len(s) > 1 && s[len(s)-1] == '.' {
		return s[:len(s)-1]
	}
	return s
}

// fly runs one lookup for all who wait, independent of any caller's context.
func (r *Resolver) fly(f *flight, k key, old *entry) {
	defer r.busy.Done()
	e := r.resolve(r.life, k)
	if e.err != nil && e.err.Kind == ErrTemporary {
		e = r.fallBack(e, old)
	}
	f.entry = e
	r.mu.Lock()
	r.cache.put(e)
	r.m.entries.Set(float64(r.cache.len()))
	delete(r.flights, k)
	r.mu.Unlock()
	close(f.done)
}

// fallBack chooses what a failed lookup leaves in the cache for a moment: the
// old answer again (RFC 8767 §5), or the failure.
func (r *Resolver) fallBack(failed, old *entry) *entry {
	now := time.Now()
	failed.expires = now.Add(r.o.FailureTTL.D())
	if old == nil || !old.positive() || !now.Before(old.stale) {
		return failed
	}
	r.m.stale.Inc()
	r.log.Warn("dns servers fail, serving an expired answer", slog.String("name", old.name),
		slog.String("type", dns.TypeToString[old.qtype]), slog.String("error", failed.err.Error()))
	again := *old
	again.expires = failed.expires
	return &again
}

// resolve asks, following a CNAME chain across answers.
func (r *Resolver) resolve(ctx context.Context, k key) *entry {
	ttl := ^uint32(0)
	name := k.name
	for range maxCNAMEQueries {
		msg, server, err := r.ask(ctx, key{name: name, qtype: k.qtype})
		if err != nil {
			return &entry{key: k, err: r.temporary(k, server, err)}
		}
		rec := read(msg.Answer, name, k.qtype)
		ttl = min(ttl, rec.ttl)
		switch {
		case rec.filled():
			e := rec.entry
			e.key, e.expires = k, time.Now().Add(r.bound(ttl))
			e.stale = e.expires.Add(r.o.Stale.D())
			return &e
		case msg.Rcode == dns.RcodeNameError:
			return r.negative(k, server, ErrNotFound, msg)
		case rec.target != "" && rec.target != name:
			name = rec.target
		default:
			return r.negative(k, server, ErrNoData, msg)
		}
	}
	return &entry{key: k, err: r.temporary(k, "", fmt.Errorf("CNAME chain longer than %d", maxCNAMEQueries))}
}

// bound is the time to keep a positive answer.
func (r *Resolver) bound(ttl uint32) time.Duration {
	return min(max(time.Duration(ttl)*time.Second, r.o.MinTTL.D()), r.o.MaxTTL.D())
}

// negative makes the entry for NXDOMAIN or an empty answer, kept for the lesser of the
// SOA's TTL and its minimum (RFC 2308 §5). Without an SOA it is kept for MinTTL.
func (r *Resolver) negative(k key, server string, kind error, msg *dns.Msg) *entry {
	keep := r.o.MinTTL.D()
	for _, rr := range msg.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			keep = max(keep, time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second)
			break
		}
	}
	keep = min(keep, r.o.NegativeTTL.D())
	return &entry{key: k, expires: time.Now().Add(keep),
		err: &Error{Kind: kind, Name: trimDot(k.name), Type: dns.TypeToString[k.qtype], Server: server}}
}

// ask puts one question to the servers in turn until one gives a usable answer.
func (r *Resolver) ask(ctx context.Context, k key) (msg *dns.Msg, server string, err error) {
	first := int(r.good.Load())
	for range r.o.Attempts {
		for i := range r.servers {
			n := (first + i) % len(r.servers)
			server = r.servers[n]
			msg, err = r.askOne(ctx, k, server)
			if err == nil {
				r.good.Store(uint32(n))
				return msg, server, nil
			}
			r.log.Debug("dns query failed", slog.String("name", k.name), slog.String("server", server), slog.String("error", err.Error()))
			if ctx.Err() != nil {
				return nil, server, context.Cause(ctx)
			}
		}
	}
	return nil, server, err
}

// askOne puts one question to one server. An answer without error is NOERROR or NXDOMAIN.
func (r *Resolver) askOne(ctx context.Context, k key, server string) (*dns.Msg, error) {
	started := time.Now()
	msg, err := r.exchange(ctx, k, server, true)
	if err == nil && (msg.Rcode == dns.RcodeFormatError || msg.Rcode == dns.RcodeNotImplemented) {
		msg, err = r.exchange(ctx, k, server, false) // RFC 6891 §7: a server that knows no EDNS
	}
	r.m.seconds.Observe(time.Since(started).Seconds())
	if err != nil {
		r.m.query(k.qtype, "lost")
		return nil, err
	}
	r.m.query(k.qtype, dns.RcodeToString[msg.Rcode])
	if msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError {
		return nil, fmt.Errorf("server answered %s", dns.RcodeToString[msg.Rcode])
	}
	return msg, nil
}

func (r *Resolver) exchange(ctx context.Context, k key, server string, edns bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout.D())
	defer cancel()
	q := new(dns.Msg)
	q.SetQuestion(k.name, k.qtype)
	if edns {
		q.SetEdns0(udpSize, false)
	}
	return r.ex.Exchange(ctx, q, server)
}
