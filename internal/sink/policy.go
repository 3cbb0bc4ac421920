package sink

import (
	"hash/maphash"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// verdict is what a provider decides about one command.
type verdict struct {
	reply reply         // code 0: accept in the usual words
	delay time.Duration // before the reply
	drop  bool          // close without any reply
	close bool          // close after the reply
}

func (v verdict) ok() bool { return v.reply.code == 0 && !v.drop }

func refuse(r reply) verdict { return verdict{reply: r, close: r.code == 421} }

// policy decides what to do with recipients. It is shared by all connections of a provider.
type policy struct {
	now     atomic.Pointer[rules]
	seed    maphash.Seed // of map keys only: any value will do
	salt    uint64       // of the random decisions
	mu      sync.Mutex
	grey    map[uint64]time.Time // first attempt of a (reverse path, recipient)
	tries   map[uint64]uint64    // random decisions against a recipient so far
	tokens  float64
	refill  time.Time
	rotated int
}

// rules are what is in force. They are replaced as a whole and never changed.
type rules struct {
	Behaviour
	texts texts
}

func newPolicy(b Behaviour, salt uint64) *policy {
	p := &policy{seed: maphash.MakeSeed(), salt: salt}
	p.set(b)
	p.reset()
	return p
}

// set puts another behaviour in force.
func (p *policy) set(b Behaviour) {
	r := &rules{Behaviour: b, texts: textsOf(b.Texts)}
	r.texts.deferred = override(r.texts.deferred, b.DeferReplies)
	r.texts.bounced = override(r.texts.bounced, b.BounceReplies)
	p.now.Store(r)
}

func (p *policy) rules() *rules { return p.now.Load() }

func override(usual []reply, given []string) []reply {
	if len(given) == 0 {
		return usual
	}
	out := make([]reply, 0, len(given))
	for _, s := range given {
		r, _ := parseReply(s) // checked by Validate
		r.text = strings.ReplaceAll(r.text, `\n`, "\n")
		out = append(out, r)
	}
	return out
}

// reset forgets all earlier attempts.
func (p *policy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grey, p.tries = map[uint64]time.Time{}, map[uint64]uint64{}
	p.tokens, p.refill = max(1, p.rules().Rate), time.Time{}
}

// pick returns the replies of a list in turn.
func (p *policy) pick(list []reply) reply {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rotated++
	return list[p.rotated%len(list)]
}

// rcpt decides about one recipient when RCPT arrives.
func (p *policy) rcpt(from, to string, secure bool) verdict {
	if t, ok := triggerOf(to); ok {
		return p.trigger(t, from, to, secure)
	}
	if p.rules().AtData {
		return p.limit()
	}
	if v := p.chance(from, to); !v.ok() {
		return v
	}
	return p.limit()
}

// dot decides about one recipient of a message whose final dot has arrived.
func (p *policy) dot(from, to string) verdict {
	r := p.rules()
	v := verdict{delay: r.DotDelay.D()}
	t, ok := triggerOf(to)
	switch {
	case ok && t.atDot:
		v = refuse(t.reply)
	case ok && t.name == "slow":
		v.delay = max(v.delay, t.time)
	case ok && t.name == "drop":
		v.drop = true
	case !ok && r.AtData:
		v = p.chance(from, to)
	}
	if v.ok() && !ok && p.lost(to) {
		v.drop = true
	}
	v.delay = max(v.delay, r.DotDelay.D())
	return v
}

// chance applies greylisting and the random shares.
func (p *policy) chance(from, to string) verdict {
	r := p.rules()
	if r.Bounce > 0 && p.share(to, "bounce", 0) < r.Bounce {
		return refuse(p.pick(r.texts.bounced))
	}
	if r.Greylist > 0 && !p.known(from, to, r.Greylist.D()) {
		return refuse(reply{451, "4.7.1", "Greylisting in action, please come back later"})
	}
	if r.Defer > 0 && p.again(to, "defer") < r.Defer {
		return refuse(p.pick(r.texts.deferred))
	}
	return verdict{}
}

func (p *policy) lost(to string) bool {
	share := p.rules().Drop
	return share > 0 && p.again(to, "drop") < share
}

// known keeps a greylist: true when the pair was first seen at least wait ago.
func (p *policy) known(from, to string, wait time.Duration) bool {
	key := maphash.String(p.seed, from+"\x00"+to)
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	first, seen := p.grey[key]
	if !seen {
		p.grey[key] = now
		return false
	}
	return now.Sub(first) >= wait
}

// limit takes a token of the provider's rate.
func (p *policy) limit() verdict {
	r := p.rules()
	if r.Rate <= 0 {
		return verdict{}
	}
	now := time.Now()
	p.mu.Lock()
	if !p.refill.IsZero() {
		p.tokens = min(max(1, r.Rate), p.tokens+now.Sub(p.refill).Seconds()*r.Rate)
	}
	p.refill = now
	ok := p.tokens >= 1
	if ok {
		p.tokens--
	}
	p.mu.Unlock()
	if ok {
		return verdict{}
	}
	return refuse(p.pick(r.texts.limited))
}

// again is a number from 0 to 1 that differs at each attempt for a recipient,
// yet depends on nothing but the seed, the recipient and the number of
// attempts: the interleaving of connections does not change the decisions.
func (p *policy) again(to, what string) float64 {
	key := maphash.String(p.seed, what+"\x00"+to)
	p.mu.Lock()
	n := p.tries[key]
	p.tries[key] = n + 1
	p.mu.Unlock()
	return p.share(to, what, n)
}

// share is a number from 0 to 1 that depends on the seed and its arguments only (FNV-1a with a final mix).
func (p *policy) share(to, what string, n uint64) float64 {
	h := uint64(14695981039346656037) ^ p.salt
	for _, s := range [2]string{what, to} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	h ^= n * 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	h ^= h >> 31
	return float64(h>>11) / (1 << 53)
}

// trigger is a behaviour that a recipient's local part asks for.
type trigger struct {
	name  string
	reply reply
	time  time.Duration
	atDot bool
}

// trigger acts on a local part at RCPT.
func (p *policy) trigger(t trigger, from, to string, secure bool) verdict {
	switch t.name {
	case "greylist":
		if p.known(from, to, t.time) {
			return verdict{}
		}
		return refuse(reply{451, "4.7.1", "Greylisting in action, please come back later"})
	case "ratelimited":
		return refuse(p.pick(p.rules().texts.limited))
	case "tls-required":
		if secure {
			return verdict{}
		}
		return refuse(reply{530, "5.7.0", "Must issue a STARTTLS command first"})
	case "slow", "drop":
		return verdict{}
	}
	if t.atDot {
		return verdict{}
	}
	return refuse(t.reply)
}

// triggerOf recognises the local parts that the package comment lists. A plus
// and what follows, and digits at the end, do not count: tempfail17 and
// tempfail+x are tempfail.
func triggerOf(to string) (trigger, bool) {
	local, _, _ := strings.Cut(to, "@")
	local, _, _ = strings.Cut(local, "+")
	name, arg, _ := strings.Cut(local, "-")
	switch name {
	case "421":
		return trigger{name: name, reply: reply{421, "4.7.0", "Service not available, closing connection"}}, true
	case "reply", "data":
		return replyTrigger(arg, name == "data")
	case "slow", "greylist":
		if d, err := time.ParseDuration(arg); err == nil {
			return trigger{name: name, time: d}, true
		}
	}
	switch local = strings.TrimRight(local, "0123456789"); local {
	case "tempfail", "tempfail-data":
		return trigger{name: local, atDot: local != "tempfail", reply: reply{451, "4.3.0", "Temporary failure by request"}}, true
	case "permfail", "permfail-data":
		return trigger{name: local, atDot: local != "permfail", reply: reply{550, "5.1.1", "Permanent failure by request: no such user"}}, true
	case "full":
		return trigger{name: local, reply: reply{452, "4.2.2", "Mailbox full"}}, true
	case "tls-fail":
		return trigger{name: local, reply: reply{454, "4.7.0", "TLS not available due to temporary reason"}}, true
	case "greylist":
		return trigger{name: local, time: time.Second}, true
	case "slow":
		return trigger{name: local, time: 2 * time.Second}, true
	case "hang":
		return trigger{name: "slow", time: time.Hour}, true
	case "drop", "ratelimited", "tls-required":
		return trigger{name: local}, true
	}
	return trigger{}, false
}

// replyTrigger reads 452 or 452-4.2.2 (the enhanced code may have dots or be absent).
func replyTrigger(arg string, atDot bool) (trigger, bool) {
	code, enhanced, _ := strings.Cut(arg, "-")
	n, err := strconv.Atoi(code)
	if err != nil || n < 400 || n > 599 || enhanced != "" && !isEnhanced(enhanced) {
		return trigger{}, false
	}
	return trigger{name: "reply", atDot: atDot, reply: reply{n, enhanced, "By request of the recipient's local part"}}, true
}
