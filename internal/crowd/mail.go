package crowd

import (
	"encoding/binary"
	"encoding/hex"
	"time"
)

// Kind is what an event is about.
type Kind uint8

// The kinds of events. All but Shop are about one message each, and come with the share Mail.
const (
	Shop       Kind = iota // what people do in a shop, under one of many metrics
	Received               // a message was delivered
	Bounced                // or it was refused
	Opened                 // by a person, or a machine
	Clicked                // by a person, or a machine
	Complained             // it was called spam
)

// Service is that of the metrics of mail.
const Service = "godwit"

// MailMetric is the name of the metric of a kind, as the MTA's feed and the API have it; "" for Shop.
func MailMetric(k Kind) string {
	return [...]string{"", "Received Email", "Bounced Email", "Opened Email", "Clicked Email", "Marked Email as Spam"}[k]
}

// Mail is the message that an event is about. All events of one message have the same.
type Mail struct {
	Number uint64    // of the event that sent it
	At     time.Time // delivered or bounced
	Flow   bool      // sent by a flow; else by a campaign
	Hard   bool      // of Bounced: there is no such mailbox
	Bot    bool      // of Opened and Clicked: a machine did it, within seconds
}

// What becomes of mail, as shares of it. They are about those of newsletters: half of what opens it are the machines of mailbox
// providers, and a tenth of what clicks are scanners.
const (
	bounces    = 0.01
	hard       = 0.7 // of bounces
	opens      = 0.30
	clicks     = 0.02 // all of it opened
	complaints = 0.0002
	botOpens   = 0.5 // of opens
	botClicks  = 0.1 // of clicks
)

// sendsOf is the share of numbers that must want to send a message, for a share of events to be about mail. What
// follows from earlier messages goes first: a number that would send one and is taken by that does not.
func sendsOf(share float64) float64 {
	const follow = (1 - bounces) * (opens + clicks + complaints)
	sent := share / (1 + follow)
	return sent / (1 - follow*sent)
}

// reactions are what may follow a message, and by how many numbers. So the number of an event tells its message.
func reactions() [3]struct {
	kind Kind
	gap  uint64
} {
	return [...]struct {
		kind Kind
		gap  uint64
	}{{Opened, 1021}, {Clicked, 2039}, {Complained, 4093}}
}

// mailSeed sets the dice of a message apart from those of its event.
const mailSeed = 0xa0761d6478bd642f

// wants is what a number would send and what would follow, by dice alone.
func (w *World) wants(n uint64) (sends, bounced, opened, clicked, complained bool) {
	d := dice((w.o.Seed + mailSeed) * (n*2 + 1))
	if d.float() >= w.sends {
		return false, false, false, false, false
	}
	fate := d.float()
	if fate < bounces {
		return true, true, false, false, false
	}
	likes := d.float()
	return true, false, likes < opens, likes < clicks, d.float() < complaints
}

// follows reports whether a number would send a message that a reaction of a kind follows.
func (w *World) follows(n uint64, k Kind) bool {
	_, _, opened, clicked, complained := w.wants(n)
	return k == Opened && opened || k == Clicked && clicked || k == Complained && complained
}

// sent reports whether number n, which wants to, does send a message.
func (w *World) sent(n uint64) bool {
	if _, again := w.roll(n); again {
		return false
	}
	_, _, ok := w.reaction(n)
	return !ok
}

// reaction is what number n is to an earlier message, if to any.
func (w *World) reaction(n uint64) (message uint64, k Kind, ok bool) {
	for _, r := range reactions() {
		if n >= r.gap && w.follows(n-r.gap, r.kind) && w.sent(n-r.gap) {
			return n - r.gap, r.kind, true
		}
	}
	return 0, 0, false
}

// mail is event n if that is about a message.
func (w *World) mail(n uint64) (Event, bool) {
	if m, k, ok := w.reaction(n); ok {
		e := w.message(m, Received)
		e.N = n
		w.react(&e, k)
		return e, true
	}
	switch sends, bounced, _, _, _ := w.wants(n); {
	case bounced:
		return w.message(n, Bounced), true
	case sends:
		return w.message(n, Received), true
	}
	return Event{}, false
}

// message is the first event of the message of a number: who it went to, when and why are those of the event that the number would be else.
func (w *World) message(n uint64, k Kind) Event {
	d, _ := w.roll(n)
	e := w.shop(n, d)
	e.Kind, e.Email, e.External = k, true, false
	p := dice(w.o.Seed - uint64(e.Profile)*mailSeed) // one mailbox is at one provider
	e.Inbox = p.pick(8, 2)
	f := w.luck(n)
	e.Mail = Mail{Number: n, At: e.Time, Flow: f.float() < 0.25, Hard: k == Bounced && f.float() < hard}
	return e
}

// luck are the dice for what is not known from wants.
func (w *World) luck(n uint64) dice { return dice((w.o.Seed ^ mailSeed) + n*0xe7037ed1a0b428db) }

// react makes the event of a delivery the one of what followed.
func (w *World) react(e *Event, k Kind) {
	d := w.luck(e.Mail.Number)
	_ = d.float() // Flow
	bot := d.float() < botOpens
	open := w.later(e.Time, delay(&d, bot, 40*time.Minute), d.float())
	switch e.Kind = k; k {
	case Clicked:
		e.Mail.Bot = d.float() < botClicks
		read := time.Duration((5 + 115*d.float()) * float64(time.Second))
		if e.Mail.Bot {
			open, read = e.Time, delay(&d, true, 0)
		}
		e.Time = w.later(open, read, d.float())
	case Complained:
		_, late := d.float(), d.float()
		e.Time = w.later(e.Time, delay(&d, false, 3*time.Hour), late)
	default:
		e.Mail.Bot, e.Time = bot, open
	}
}

// delay is how long after a delivery something is done: a machine takes seconds, half of the people the median, some days.
func delay(d *dice, bot bool, median time.Duration) time.Duration {
	u := d.float()
	if bot {
		return time.Duration((1 + 4*u) * float64(time.Second))
	}
	const most = 7 * 24 * time.Hour
	return time.Duration(min(u/(1-u)*float64(median), float64(most)))
}

// later is a time after t. What would be behind the world's end is somewhere before it.
func (w *World) later(t time.Time, after time.Duration, u float64) time.Time {
	if w.o.Span > 0 {
		if left := w.o.From.Add(w.o.Span.D()).Sub(t); after > left {
			after = time.Duration(u * float64(max(left, 0)))
		}
	}
	return t.Add(after).Truncate(time.Millisecond)
}

// appendID appends the id that the message would have as one of the MTA's (a UUID version 7).
func (m *Mail) appendID(b []byte) []byte {
	d := dice(m.Number * mailSeed)
	var id [16]byte
	binary.BigEndian.PutUint64(id[:], uint64(m.At.UnixMilli())<<16|d.next()>>48)
	binary.BigEndian.PutUint64(id[8:], d.next())
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	var s [36]byte
	at := 0
	for i, part := range [...][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if i > 0 {
			s[at] = '-'
			at++
		}
		at += hex.Encode(s[at:], part)
	}
	return append(b, s[:]...)
}
