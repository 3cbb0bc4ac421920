package sink

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/internal/watch"
)

// dialFrom connects from an address of its own.
func dialFrom(t testing.TB, source, addr string) *client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 10 * time.Second}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{t, conn, newReader(conn)}
}

func rate(n int64, per time.Duration) units.Rate { return units.Rate{Count: n, Per: per} }

// TestRecentAgainstNaive: never more than the count in any window of the length, and never fewer than could be.
func TestRecentAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r recent
		var kept []time.Time
		now := time.Unix(0, 0)
		n := rapid.Int64Range(1, 5).Draw(t, "n")
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 8).Draw(t, "dt")))
			if rapid.IntRange(0, 9).Draw(t, "change") == 0 {
				n = rapid.Int64Range(1, 5).Draw(t, "n")
			}
			kept = kept[max(0, len(kept)-int(n)):]
			inWindow := 0
			for _, k := range kept {
				if now.Sub(k) < 20 {
					inWindow++
				}
			}
			want := inWindow < int(n)
			limit := rate(n, 20)
			if got := r.room(now, limit); got != want {
				t.Fatalf("room %v, want %v: %d of %d", got, want, inWindow, n)
			}
			if want {
				r.add(now, limit)
				kept = append(kept, now)
			}
		}
	})
}

func TestSourceRate(t *testing.T) {
	bothModes(t, func(t *testing.T, mode string) {
		s := start(t, Provider{Name: "a", Mode: mode, Behaviour: Behaviour{SourceRate: rate(2, time.Hour), Texts: "outlook"}})
		a, b := dialFrom(t, "127.0.0.2", s.Addr("a")), dialFrom(t, "127.0.0.3", s.Addr("a"))
		mail := "> MAIL FROM:<a@s.test>\n< 250\n> RSET\n< 250\n"
		a.script(hello + mail + mail)
		b.script(hello + mail)
		a.send("MAIL FROM:<a@s.test>\r\n")
		if got := a.expect("421"); !strings.Contains(got, "some messages from 127.0.0.2 weren't sent") {
			t.Errorf("%q", got)
		}
		a.expect("closed")
		a = dialFrom(t, "127.0.0.2", s.Addr("a"))
		a.script(hello)
		a.send("MAIL FROM:<a@s.test>\r\n")
		if got := a.expect("451 4.7.650"); !strings.Contains(got, "[127.0.0.2] has been temporarily rate limited") {
			t.Errorf("%q", got)
		}
		b.script(mail + "> QUIT\n< 221\n< closed")
		st := s.Stats().Sources
		if len(st) != 2 || st[0].Source != "127.0.0.2" || st[0].Mails != 4 || st[0].Limited != 2 || st[1].Mails != 2 || st[1].Limited != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestSourceConnections(t *testing.T) {
	bothModes(t, func(t *testing.T, mode string) {
		s := start(t, Provider{Name: "a", Mode: mode, Behaviour: Behaviour{SourceConnections: 1, SourceConnectRate: rate(2, time.Hour), Texts: "orange"}})
		first := dialFrom(t, "127.0.0.2", s.Addr("a"))
		first.script(hello)
		second := dialFrom(t, "127.0.0.2", s.Addr("a"))
		if got := second.expect("421"); !strings.Contains(got, "Trop de connexions, veuillez verifier votre configuration") {
			t.Errorf("%q", got)
		}
		second.expect("closed")
		dialFrom(t, "127.0.0.3", s.Addr("a")).script(hello)
		first.script("> QUIT\n< 221\n< closed") // counted out before it is closed, so the next one has room
		dialFrom(t, "127.0.0.2", s.Addr("a")).script(hello + "> QUIT\n< 221\n< closed")
		dialFrom(t, "127.0.0.2", s.Addr("a")).script("< 421\n< closed") // the third within the hour
		st := s.Stats()
		if got := st.Sources[0]; got.Connections != 4 || got.Refused != 2 || got.Limited != 2 || got.OpenMax != 1 || got.Open != 0 {
			t.Errorf("%+v", got)
		}
		if st.Total.Refused != 2 || st.Total.Connections != 5 {
			t.Errorf("%+v", st.Total)
		}
	})
}

// TestBlockList in virtual time: too many hits within the window block, not over a longer time; the block ends by itself.
func TestBlockList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Behaviour{SourceRate: rate(1, time.Second), BlockAfter: 3, BlockWindow: units.Duration(10 * time.Second), BlockFor: units.Duration(time.Minute)}
		s := &source{}
		expect := func(wants ...watch.Verdict) {
			t.Helper()
			for i, want := range wants {
				if got := s.mail(b, time.Now()); got != want {
					t.Fatalf("MAIL %d: %v, want %v", i+1, got, want)
				}
			}
		}
		expect(watch.Accepted, watch.Limited)
		time.Sleep(5 * time.Second)
		expect(watch.Accepted, watch.Limited)
		time.Sleep(5 * time.Second) // the first hit is out of the window
		expect(watch.Accepted, watch.Limited, watch.Limited, watch.Blocked, watch.Blocked)
		time.Sleep(time.Minute - 1)
		expect(watch.Blocked)
		time.Sleep(time.Nanosecond)
		expect(watch.Accepted, watch.Limited, watch.Limited, watch.Limited, watch.Blocked)
		if got := s.stats("a"); got.Blocks != 2 || got.Denied != 4 || got.Limited != 7 || got.BlockedUntil == nil {
			t.Errorf("%+v", got)
		}
		s.block(time.Time{})
		time.Sleep(time.Second)
		expect(watch.Accepted)
		s.block(time.Now().Add(time.Second))
		expect(watch.Blocked)
		s.reset()
		expect(watch.Accepted)
	})
}

func TestBlockedWords(t *testing.T) {
	bothModes(t, func(t *testing.T, mode string) {
		b := Behaviour{SourceRate: rate(1, time.Hour), BlockAfter: 1, BlockFor: units.Duration(time.Hour), Texts: "yahoo"}
		s := start(t, Provider{Name: "a", Mode: mode, Behaviour: b})
		c := dialFrom(t, "127.0.0.2", s.Addr("a"))
		c.script(hello + "> MAIL FROM:<a@s.test>\n< 250\n> RSET\n< 250\n> MAIL FROM:<a@s.test>\n< 421 4.7.0 [TS01] Messages from 127.0.0.2\n< closed")
		c = dialFrom(t, "127.0.0.2", s.Addr("a"))
		c.script(hello + "> MAIL FROM:<a@s.test>\n< 553 5.7.1 [BL21] Connections will not be accepted from 127.0.0.2\n> QUIT\n< 221")
		if err := s.Change("a", func(b *Behaviour) error { b.BlockAt = BlockAtConnect; return nil }); err != nil {
			t.Fatal(err)
		}
		dialFrom(t, "127.0.0.2", s.Addr("a")).script("< 553 5.7.1 [BL21]\n< closed")
		dialFrom(t, "127.0.0.3", s.Addr("a")).script(hello + "> MAIL FROM:<a@s.test>\n< 250")
	})
}

// TestTexts: every wording has all kinds of replies, of the class that it must have, and no placeholder reaches the wire.
func TestTexts(t *testing.T) {
	if n := len(textNames()); n != 11 {
		t.Errorf("%d wordings", n)
	}
	for _, name := range textNames() {
		x := textsOf(name)
		for kind, list := range map[string][]reply{"deferred": x.deferred, "bounced": x.bounced, "limited": x.limited, "connections": x.connections, "blocked": x.blocked} {
			if len(list) == 0 {
				t.Errorf("%s has no %s", name, kind)
			}
			for _, r := range list {
				wire := string(r.forPeer("192.0.2.1").append(nil, true))
				if _, err := parseReply(fmt.Sprintf("%d %s %s", r.code, r.enhanced, r.text)); err != nil || strings.Contains(wire, "{") || len(wire) > 900 {
					t.Errorf("%s, %s: %q", name, kind, wire)
				}
				if temporary := kind == "deferred" || (kind == "limited" || kind == "connections") && name != "qq"; temporary && !r.temporary() || kind == "bounced" && !r.permanent() {
					t.Errorf("%s, %s: %d", name, kind, r.code)
				}
			}
		}
	}
}
