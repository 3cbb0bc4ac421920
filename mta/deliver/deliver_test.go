package deliver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// TestStages runs each stage of a transaction into each kind of trouble, in each mode.
func TestStages(t *testing.T) {
	troubles := map[string]string{"4xx": "450 4.7.1 later", "5xx": "550 5.7.1 never", "421": "421 4.3.2 bye", "garbage": "what?", "drop": drop, "hang": hang, "2xx": "250 fine", "3xx": "354 eh"}
	modes := map[string][]string{"lockstep": nil, "pipelined": {"PIPELINING"}, "chunked": {"PIPELINING", "CHUNKING"}, "lockstep chunked": {"CHUNKING"}}
	for mode, caps := range modes {
		stages := []string{"MAIL", "RCPT", "DATA", "end"}
		if strings.Contains(mode, "chunked") {
			stages = []string{"MAIL", "RCPT", "BDAT"}
		}
		for _, stage := range stages {
			for trouble, reply := range troubles {
				if trouble == "2xx" && stage != "DATA" || trouble == "3xx" && stage == "DATA" {
					continue
				}
				t.Run(mode+"/"+stage+"/"+trouble, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						final := stage == "end" || stage == "BDAT"
						// What is written whole, and not answered in a way that says no, may have been taken.
						unknown := final || mode == "chunked"
						command := map[string]string{"end": "end-of-data"}[stage]
						if command == "" {
							command = stage
						}
						want := map[string]string{
							"4xx":     "deferred smtp 450 " + command,
							"5xx":     "bounced smtp 550 " + command,
							"421":     "deferred smtp 421 " + command,
							"garbage": "deferred smtp 0 " + command,
							"drop":    "deferred connect 451 " + command,
							"hang":    "deferred connect 451 " + command,
							"2xx":     "deferred smtp 250 " + command,
							"3xx":     "deferred smtp 354 " + command,
						}[trouble]
						switch trouble {
						case "garbage", "drop", "hang":
							if unknown {
								want = strings.Replace(want, "deferred", "ambiguous", 1)
							}
						case "3xx":
							if final {
								want = strings.Replace(want, "deferred", "ambiguous", 1)
							}
						}
						p := &peer{ehlo: caps, replies: map[string]string{stage: reply}}
						n := &pipes{peers: map[string]*peer{"": p}}
						s := session(t, deliverer(t, n, nil), route)
						out := s.Deliver(t.Context(), to("a@rcpt.example"), nil)
						if got := brief(out[0]); got != want {
							t.Errorf("got %s (%s %s), want %s", got, out[0].Reply, out[0].Error, want)
						}
						if usable := trouble == "4xx" || trouble == "5xx"; s.Usable() != usable {
							t.Errorf("usable %v", s.Usable())
						}
						if s.Usable() {
							p.mu.Lock()
							p.replies = nil
							p.mu.Unlock()
							if out := s.Deliver(t.Context(), to("b@rcpt.example"), nil); out[0].Kind != mail.Delivered {
								t.Errorf("next transaction: %s %s", brief(out[0]), out[0].Reply)
							}
							reset := strings.Contains(p.commands(), "RSET")
							if want := stage == "RCPT" || stage == "DATA" || stage == "BDAT"; reset != want {
								t.Errorf("RSET sent: %v, want %v", reset, want)
							}
						}
						s.Close()
						n.running.Wait()
					})
				})
			}
		}
	}
}

func TestTransaction(t *testing.T) {
	const want = "Subject: hi\r\n\r\nhello\r\n.dot\r\n"
	for name, c := range map[string]struct {
		caps     []string
		commands string
	}{
		"lockstep":         {nil, "EHLO client.example|MAIL FROM:<from@sender.example>|RCPT TO:<a@rcpt.example>|RCPT TO:<b@rcpt.example>|DATA|QUIT"},
		"pipelined":        {[]string{"PIPELINING", "SIZE 1000"}, "EHLO client.example|MAIL FROM:<from@sender.example> SIZE=28|RCPT TO:<a@rcpt.example>|RCPT TO:<b@rcpt.example>|DATA|QUIT"},
		"chunked":          {[]string{"PIPELINING", "CHUNKING"}, "EHLO client.example|MAIL FROM:<from@sender.example>|RCPT TO:<a@rcpt.example>|RCPT TO:<b@rcpt.example>|BDAT 28 LAST|QUIT"},
		"lockstep chunked": {[]string{"CHUNKING"}, "EHLO client.example|MAIL FROM:<from@sender.example>|RCPT TO:<a@rcpt.example>|RCPT TO:<b@rcpt.example>|BDAT 28 LAST|QUIT"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				released := 0
				p := &peer{ehlo: c.caps, replies: map[string]string{"end": "250-2.0.0 one\r\n250 2.0.0 two", "BDAT": "250-2.0.0 one\r\n250 2.0.0 two"}}
				n := &pipes{peers: map[string]*peer{"": p}}
				s := session(t, deliverer(t, n, func(_ *Options, d *Deps) { d.Composer = text{parts: hello.parts, released: &released} }), route)
				out := s.Deliver(t.Context(), to("a@rcpt.example", "b@rcpt.example"), nil)
				for _, o := range out {
					if o.Kind != mail.Delivered || o.Reply.String() != "250 2.0.0 one two" || o.Host != "mx.example" || o.Address != "192.0.2.1:25" || o.Session != s.ID() || o.Started.IsZero() {
						t.Errorf("%+v", o)
					}
				}
				s.Close()
				s.Close()
				n.running.Wait()
				if got := p.commands(); got != c.commands {
					t.Errorf("got  %s\nwant %s", got, c.commands)
				}
				if len(p.bodies) != 1 || p.bodies[0] != want || released != 1 {
					t.Errorf("%q, released %d times", p.bodies, released)
				}
			})
		})
	}
}

// one delivers msgs to p and returns the outcomes.
func one(t *testing.T, p *peer, msgs []*mail.Message, edit func(*Options, *Deps)) []mail.Outcome {
	t.Helper()
	n := &pipes{peers: map[string]*peer{"": p}}
	s := session(t, deliverer(t, n, edit), route)
	out := s.Deliver(t.Context(), msgs, nil)
	s.Close()
	n.running.Wait()
	return out
}

func TestRecipientsDifferInOutcome(t *testing.T) {
	for _, caps := range [][]string{nil, {"PIPELINING"}, {"PIPELINING", "CHUNKING"}} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{ehlo: caps, replies: map[string]string{"RCPT b@x.example": "550 5.1.1 nobody", "RCPT c@x.example": "450 4.2.0 grey"}}
			out := one(t, p, to("a@x.example", "b@x.example", "c@x.example", "d@x.example"), nil)
			got := fmt.Sprint(brief(out[0]), ", ", brief(out[1]), ", ", brief(out[2]), ", ", brief(out[3]))
			final := "end-of-data"
			if len(caps) == 2 {
				final = "BDAT"
			}
			want := "delivered smtp 250 " + final + ", bounced smtp 550 RCPT, deferred smtp 450 RCPT, delivered smtp 250 " + final
			if got != want {
				t.Errorf("%v: %s", caps, got)
			}
		})
	}
}

func TestNoRecipientAccepted(t *testing.T) {
	for name, data := range map[string]string{"503": "503 5.5.1 no", "354 all the same": "354 go"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &peer{ehlo: []string{"PIPELINING"}, replies: map[string]string{"RCPT": "550 5.1.1 nobody", "DATA": data}}
				n := &pipes{peers: map[string]*peer{"": p}}
				s := session(t, deliverer(t, n, nil), route)
				for range 2 {
					out := s.Deliver(t.Context(), to("a@x.example", "b@x.example"), nil)
					if brief(out[0]) != "bounced smtp 550 RCPT" || brief(out[1]) != "bounced smtp 550 RCPT" {
						t.Fatal(brief(out[0]), brief(out[1]))
					}
					if !s.Usable() {
						t.Fatal("not usable")
					}
				}
				s.Close()
				n.running.Wait()
				if len(p.bodies) > 0 && p.bodies[0] != "" {
					t.Errorf("a message went out: %q", p.bodies)
				}
			})
		})
	}
}

func TestRefusedMailWithPipelining(t *testing.T) {
	for _, caps := range [][]string{{"PIPELINING"}, {"PIPELINING", "CHUNKING"}} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{ehlo: caps, replies: map[string]string{"MAIL": "550 5.7.1 not you", "RCPT": "503 5.5.1 MAIL first"}}
			n := &pipes{peers: map[string]*peer{"": p}}
			s := session(t, deliverer(t, n, nil), route)
			out := s.Deliver(t.Context(), to("a@x.example", "b@x.example"), nil)
			if brief(out[0]) != "bounced smtp 550 MAIL" || out[1].Reply.Text != "not you" || !s.Usable() {
				t.Errorf("%s %s", brief(out[0]), brief(out[1]))
			}
			s.Close()
			n.running.Wait()
		})
	}
}

func TestTooManyRecipientsGoInNextTransaction(t *testing.T) {
	for _, caps := range [][]string{nil, {"PIPELINING"}, {"PIPELINING", "CHUNKING"}} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{ehlo: caps, replies: map[string]string{"RCPT c@x.example": "452 4.5.3 too many"}}
			n := &pipes{peers: map[string]*peer{"": p}}
			s := session(t, deliverer(t, n, nil), route)
			out := s.Deliver(t.Context(), to("a@x.example", "b@x.example", "c@x.example"), nil)
			// The second time c is alone and refused again: no endless rounds.
			if out[0].Kind != mail.Delivered || out[1].Kind != mail.Delivered || brief(out[2]) != "deferred smtp 452 RCPT" {
				t.Errorf("%v", out)
			}
			if n := strings.Count(p.commands(), "RCPT TO:<c@"); n != 2 {
				t.Errorf("%d RCPT for c", n)
			}
			s.Close()
			n.running.Wait()
		})
	}
}

func TestRecipientLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{ehlo: []string{"PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=3 OTHER=x"}}
		n := &pipes{peers: map[string]*peer{"": p}}
		s := session(t, deliverer(t, n, nil), route)
		out := s.Deliver(t.Context(), to("a@x.example", "b@x.example", "c@x.example", "d@x.example", "e@x.example"), nil)
		for _, o := range out {
			if o.Kind != mail.Delivered {
				t.Error(brief(o))
			}
		}
		if len(p.bodies) != 3 || s.Usable() {
			t.Errorf("%d transactions, usable %v", len(p.bodies), s.Usable())
		}
		s.Close()
		n.running.Wait()
	})
}

func TestLossInSecondRoundLeavesTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{ehlo: []string{"PIPELINING", "LIMITS RCPTMAX=1"}, replies: map[string]string{"RCPT b@x.example": drop}}
		out := one(t, p, to("a@x.example", "b@x.example", "c@x.example"), nil)
		if out[0].Kind != mail.Delivered || brief(out[1]) != "deferred connect 451 RCPT" || out[2].Kind != mail.Deferred {
			t.Errorf("%s, %s, %s", brief(out[0]), brief(out[1]), brief(out[2]))
		}
	})
}

func TestMessagesPerSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{ehlo: []string{"PIPELINING"}}
		n := &pipes{peers: map[string]*peer{"": p}}
		s := session(t, deliverer(t, n, func(o *Options, _ *Deps) { o.MessagesPerSession = 2 }), route)
		for i := range 2 {
			if !s.Usable() {
				t.Fatalf("not usable after %d", i)
			}
			s.Deliver(t.Context(), to("a@x.example"), nil)
		}
		if s.Usable() {
			t.Error("usable beyond the limit")
		}
		s.Close()
		n.running.Wait()
	})
}

func TestBeforeAWordIsSaid(t *testing.T) {
	big := text{parts: []string{"Subject: x\r\n\r\n" + strings.Repeat("x", 2000)}}
	eight := text{parts: []string{"Subject: x\r\n\r\n\xc3\xa4\r\n"}, eightBit: true}
	utf8Header := text{parts: []string{"Subject: \xc3\xa4\r\n\r\nx\r\n"}, eightBit: true}
	for name, c := range map[string]struct {
		caps     []string
		composer Composer
		message  mail.Message
		want     string
	}{
		"too large":               {[]string{"SIZE 1000"}, big, mail.Message{}, "bounced policy 552 5.3.4"},
		"small enough":            {[]string{"SIZE 10000"}, big, mail.Message{}, "delivered smtp 250 2.0.0"},
		"8bit, not offered":       {nil, eight, mail.Message{}, "bounced policy 554 5.6.3"},
		"8bit, offered":           {[]string{"8BITMIME"}, eight, mail.Message{}, "delivered smtp 250 2.0.0"},
		"utf8 local part":         {[]string{"8BITMIME"}, hello, mail.Message{Recipient: "jürgen@x.example"}, "bounced policy 553 5.6.7"},
		"utf8 local part offered": {[]string{"8BITMIME", "SMTPUTF8"}, hello, mail.Message{Recipient: "jürgen@x.example"}, "delivered smtp 250 2.0.0"},
		"utf8 reverse path":       {nil, hello, mail.Message{ReversePath: "jürgen@x.example"}, "bounced policy 553 5.6.7"},
		"idn domain":              {nil, hello, mail.Message{Recipient: "j@bücher.example", SMTPUTF8: true}, "delivered smtp 250 2.0.0"},
		"utf8 header":             {[]string{"8BITMIME"}, utf8Header, mail.Message{SMTPUTF8: true}, "bounced policy 553 5.6.7"},
		"utf8 header, offered":    {[]string{"8BITMIME", "SMTPUTF8"}, utf8Header, mail.Message{SMTPUTF8: true}, "delivered smtp 250 2.0.0"},
		"utf8 body only":          {[]string{"8BITMIME"}, eight, mail.Message{SMTPUTF8: true}, "delivered smtp 250 2.0.0"},
		"injected command":        {nil, hello, mail.Message{Recipient: "a@x.example>\r\nRCPT TO:<b@x.example"}, "bounced policy 553 5.1.3"},
		"injected parameter":      {nil, hello, mail.Message{Recipient: "a@x.example> X=<y"}, "bounced policy 553 5.1.3"},
		"injected by sender":      {nil, hello, mail.Message{ReversePath: "a@x.example\r\n"}, "bounced policy 553 5.1.7"},
		"quoted local part":       {nil, hello, mail.Message{Recipient: `"a b>c"@x.example`}, "delivered smtp 250 2.0.0"},
		"cannot render": {nil, text{err: &mail.OutcomeError{Outcome: mail.Outcome{Kind: mail.Bounced, Class: mail.ClassRender, Reply: mail.Reply{Text: "line 1"}}}},
			mail.Message{}, "bounced render 0 "},
		"cannot read": {nil, text{err: errors.New("disk")}, mail.Message{}, "deferred policy 451 4.3.0"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := c.message
				if m.Recipient == "" {
					m.Recipient = "a@x.example"
				}
				p := &peer{ehlo: c.caps}
				out := one(t, p, []*mail.Message{&m}, func(_ *Options, d *Deps) { d.Composer = c.composer })
				if got := fmt.Sprintf("%s %s %d %s", out[0].Kind, out[0].Class, out[0].Reply.Code, out[0].Reply.Enhanced); got != c.want {
					t.Errorf("got %s (%s), want %s", got, out[0].Reply.Text, c.want)
				}
				if strings.HasPrefix(c.want, "bounced") && strings.Contains(p.commands(), "MAIL") {
					t.Error("MAIL was sent all the same")
				}
			})
		})
	}
}

func TestParameters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mail.Message{ReversePath: "jürgen@bücher.example", Recipient: "a@bücher.example", SMTPUTF8: true,
			DSN: mail.DSN{Notify: mail.NotifySuccess | mail.NotifyDelay, Ret: "HDRS", EnvelopeID: "QQ 3+=1", OriginalRecipient: "rfc822;a b@x.example"}}
		never := &mail.Message{ReversePath: m.ReversePath, Recipient: "b@x.example", SMTPUTF8: true, DSN: mail.DSN{Notify: mail.NotifyNever, Ret: "HDRS", EnvelopeID: "QQ 3+=1"}}
		p := &peer{ehlo: []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "size"}}
		one(t, p, []*mail.Message{m, never}, func(_ *Options, d *Deps) {
			d.Composer = text{parts: []string{"Subject: x\r\n\r\n\xc3\xa4\r\n"}, eightBit: true}
		})
		const want = "EHLO client.example|MAIL FROM:<jürgen@bücher.example> SIZE=18 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+203+2B+3D1|" +
			"RCPT TO:<a@xn--bcher-kva.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+20b@x.example|RCPT TO:<b@x.example> NOTIFY=NEVER|DATA|QUIT"
		if got := p.commands(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestTimeLimits(t *testing.T) {
	for stage, limit := range map[string]time.Duration{"MAIL": 5 * time.Minute, "RCPT": 5 * time.Minute, "DATA": 2 * time.Minute, "end": 10 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			started := time.Now()
			out := one(t, &peer{replies: map[string]string{stage: hang}}, to("a@x.example"), nil)
			if took := time.Since(started); took != limit || out[0].Took != limit || !strings.Contains(out[0].Reply.Text, "timed out") {
				t.Errorf("%s: %v, %s", stage, took, out[0].Reply)
			}
		})
	}
}

func TestContextEnds(t *testing.T) {
	for stage, c := range map[string]struct {
		after time.Duration
		want  string
	}{
		"MAIL": {time.Second, "deferred connect 451 MAIL"},
		"end":  {time.Second + finalGrace, "ambiguous connect 451 end-of-data"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			n := &pipes{peers: map[string]*peer{"": {replies: map[string]string{stage: hang}}}}
			s := session(t, deliverer(t, n, nil), route)
			started := time.Now()
			out := s.Deliver(ctx, to("a@x.example"), nil)
			if took := time.Since(started); took != c.after || brief(out[0]) != c.want || s.Usable() {
				t.Errorf("%s: %v, %s %s", stage, took, brief(out[0]), out[0].Reply)
			}
			s.Close()
			n.running.Wait()
		})
	}
}

func TestFirstReplyLostOnReuseIsStale(t *testing.T) {
	for name, reply := range map[string]string{"closed": drop, "421": "421 4.4.2 idle too long"} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{ehlo: []string{"PIPELINING"}}
			n := &pipes{peers: map[string]*peer{"": p}}
			s := session(t, deliverer(t, n, nil), route)
			if s.Deliver(t.Context(), to("a@x.example"), nil); s.Stale() {
				t.Errorf("%s: stale after success", name)
			}
			p.mu.Lock()
			p.replies = map[string]string{"MAIL": reply}
			p.mu.Unlock()
			if out := s.Deliver(t.Context(), to("a@x.example"), nil); out[0].Kind != mail.Deferred || !s.Stale() || s.Usable() {
				t.Errorf("%s: %s, stale %v", name, brief(out[0]), s.Stale())
			}
			s.Close()
			n.running.Wait()
		})
	}
}

func TestEarlyReplyWhileTheMessageIsWritten(t *testing.T) {
	// A peer that says 552 in the middle of a large message and closes: its words count.
	large := text{parts: []string{strings.Repeat("0123456789\r\n", 2<<20)}}
	synctest.Test(t, func(t *testing.T) {
		n := &pipes{peers: map[string]*peer{"": {}}}
		s := session(t, deliverer(t, n, func(_ *Options, d *Deps) { d.Composer = large }), route)
		s.wire.conn.Close() // the peer's end sees the loss; ours fails to write
		out := s.Deliver(t.Context(), to("a@x.example"), nil)
		if brief(out[0]) != "deferred connect 451 MAIL" || s.Usable() {
			t.Errorf("%s", brief(out[0]))
		}
		s.Close()
		n.running.Wait()
	})
}

func TestValidate(t *testing.T) {
	if err := DefaultOptions().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, edit := range map[string]func(*Options){
		"connect_timeout:":            func(o *Options) { o.ConnectTimeout = 0 },
		"final_timeout:":              func(o *Options) { o.FinalTimeout = -1 },
		"max_hosts:":                  func(o *Options) { o.MaxHosts = 0 },
		"max_addresses:":              func(o *Options) { o.MaxAddresses = 0 },
		"messages_per_session:":       func(o *Options) { o.MessagesPerSession = 0 },
		"recipients_per_transaction:": func(o *Options) { o.RecipientsPerTransaction = 1001 },
		"chunking:":                   func(o *Options) { o.Chunking = "on" },
		"greeting_5xx:":               func(o *Options) { o.Greeting5xx = "" },
		"local_ipv4:":                 func(o *Options) { o.LocalIPv4 = "::1" },
		"local_ipv6:":                 func(o *Options) { o.LocalIPv6 = "192.0.2.1" },
	} {
		o := DefaultOptions()
		edit(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("%s got %v", key, err)
		}
	}
}
