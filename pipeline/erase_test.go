package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/ingest"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

const (
	shop   = "shop"
	secret = "victim" // stands in all that names the one who is deleted
)

// city is a pipeline under test, whose clock is turned by hand.
type city struct {
	*testing.T
	o   Options
	now atomic.Int64 // seconds that the clock is ahead
	p   *Pipeline
	at  time.Time
	log *slog.Logger
}

func newCity(t *testing.T, engine string, more ...func(*Options)) *city {
	o := DefaultOptions()
	o.Path, o.Partitions, o.Warehouse.Engine = t.TempDir(), 3, engine
	o.Warehouse.Window, o.Warehouse.CheckpointEvery = units.Duration(50*time.Millisecond), units.Duration(100*time.Millisecond)
	o.API.Listen = []string{"127.0.0.1:0"}
	o.Log.SegmentBytes, o.Log.MaxAppend, o.Log.Recent = 128<<10, 1<<20, 1
	o.State.MemTable, o.State.Window = 1<<20, units.Duration(50*time.Millisecond)
	o.Erase.Within = units.Duration(48 * time.Hour)
	for _, f := range more {
		f(&o)
	}
	c := &city{T: t, o: o, at: time.Now().Add(-time.Hour).Truncate(time.Second), log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))}
	c.open()
	t.Cleanup(func() {
		if c.p != nil {
			c.stop()
		}
	})
	return c
}

func (c *city) open() {
	c.Helper()
	now := func() time.Time { return time.Now().Add(time.Duration(c.now.Load()) * time.Second) }
	p, err := New(c.Context(), c.o, Deps{Version: "test", Logger: c.log, Fatal: func(err error) { c.Error(err) }, now: now})
	c.must(err)
	c.must(p.Start())
	c.p = p
}

func (c *city) stop() {
	c.Helper()
	p := c.p
	c.p = nil
	c.must(p.Stop(context.Background()))
}

func (c *city) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// put takes records in and waits until they are applied.
func (c *city) put(all ...*fact.Intake) {
	c.Helper()
	at, err := c.p.door.Put(c.Context(), all)
	c.must(err)
	c.wait(at)
}

func (c *city) wait(at ingest.Position) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	c.must(c.p.Wait(ctx, at))
}

// quiet waits until nothing is on its way any more.
func (c *city) quiet() {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	c.must(c.p.settle(ctx))
	for c.p.filler != nil {
		all, err := c.p.filler.Status(ctx)
		c.must(err)
		if !slices.ContainsFunc(all, func(s warehouse.Status) bool { return s.Stored < s.End }) {
			return
		}
		time.Sleep(20 * time.Millisecond)
		c.must(ctx.Err())
	}
}

var kinds = map[string]fact.IdentifierKind{"id": fact.ByProfile, "ext": fact.ByExternal, "mail": fact.ByEmail, "phone": fact.ByPhone, "anon": fact.ByAnonymous}

// who reads identifiers such as mail:a@b.test.
func who(names ...string) (ids []fact.Identifier) {
	for _, n := range names {
		kind, value, _ := strings.Cut(n, ":")
		ids = append(ids, fact.Identifier{Kind: kinds[kind], Value: value})
	}
	identity.Sort(ids)
	return ids
}

func (c *city) event(uid string, ids ...string) *fact.Intake {
	c.at = c.at.Add(time.Second)
	return &fact.Intake{Kind: fact.KindEvent, Tenant: shop, Who: who(ids...), Event: &fact.Event{
		Metric: fact.DeriveMetric(shop, "api", "Placed Order"), Service: "api", Name: "Placed Order", Time: c.at.Truncate(time.Hour), UID: uid,
		Value: int64(len(uid)) * 1_000_000, HasValue: true, Dims: []fact.Dim{{Name: "URL", Value: "/" + uid[len(uid)-1:]}},
		Properties: fmt.Appendf(nil, `{"for":%q,"pad":%q}`, ids[0], strings.Repeat("x", 200))}}
}

func (c *city) change(fresh bool, ids ...string) *fact.Intake {
	return &fact.Intake{Kind: fact.KindChange, Tenant: shop, Fresh: fresh, Who: who(ids...),
		Change: &fact.Change{Attributes: fmt.Appendf(nil, `{"first_name":%q}`, ids[0]), Lists: []fact.Membership{{List: "news", Join: true}}}}
}

// profile is whose an identifier is.
func (c *city) profile(id string) fact.ProfileID {
	c.Helper()
	p, there, err := identity.NewReader(c.p.identity.Store, c.p.intake.Partitions()).Lookup(shop, who(id)[0])
	c.must(err)
	if !there {
		c.Fatalf("%s is nobody's", id)
	}
	return p
}

func (c *city) delete(id fact.ProfileID) {
	c.Helper()
	c.put(&fact.Intake{Kind: fact.KindMerge, Tenant: shop, Merge: &fact.Merge{Source: id}})
	c.quiet()
}

// live lets many others and the victim live; it returns the victim, who was known by several identifiers apart before.
func (c *city) live() fact.ProfileID {
	c.Helper()
	const mail, anon, phone, ext = "mail:" + secret + "@mail.test", "anon:" + secret + "-cookie", "phone:+1555" + secret, "ext:" + secret + "-77"
	crowd := func(round int) { // in many batches
		var at ingest.Position
		for i := range 60 {
			one := c.event(fmt.Sprintf("o%d-%d", round, i), fmt.Sprintf("mail:p%d@mail.test", i%20), fmt.Sprintf("anon:cookie%d", i%20))
			where, err := c.p.door.Put(c.Context(), []*fact.Intake{one})
			c.must(err)
			at = append(at, where...)
		}
		c.wait(at)
	}
	crowd(0)
	c.put(c.event(secret+"-1", anon), c.event(secret+"-2", anon), c.event(secret+"-3", phone))
	crowd(1)
	c.put(c.event(secret+"-2", mail), c.event(secret+"-4", mail, phone), c.change(false, mail)) // -2 comes twice, of two profiles that become one
	c.quiet()
	crowd(2)
	c.put(c.event(secret+"-5", mail, anon), c.change(true, mail))
	c.quiet()
	c.put(c.event(secret+"-6", ext, mail), c.change(true, mail), c.event(secret+"-1", mail))
	c.quiet()
	crowd(3)
	id := c.profile(ext)
	for _, other := range []string{mail, anon, phone} {
		if c.profile(other) != id {
			c.Fatalf("%s is another profile", other)
		}
	}
	c.put(c.event(secret+"-7", "id:"+id.String(), mail))
	crowd(4)
	c.quiet()
	return id
}

// pass lets half of the time go by and erases what waits.
func (c *city) pass(ctx context.Context) error {
	c.now.Add(int64(c.o.Erase.Within.D().Seconds() / 2))
	_, err := c.p.eraser.Pass(ctx)
	return err
}

// found are the files of both logs that name the victim.
func (c *city) found(dirs ...string) (names []string) {
	c.Helper()
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(c.o.Path, dir)); errors.Is(err, fs.ErrNotExist) {
			continue // such as snapshots before the first
		}
		err := filepath.WalkDir(filepath.Join(c.o.Path, dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // states change their files
			}
			if bytes.Contains(b, []byte(secret)) {
				names = append(names, path)
			}
			return err
		})
		c.must(err)
	}
	return names
}

// picture is what the states say, in words.
func (c *city) picture() string {
	c.Helper()
	c.quiet()
	var b strings.Builder
	metrics, err := c.p.counts.Metrics(c.Context(), shop)
	c.must(err)
	var lines []string
	for _, m := range metrics {
		for _, interval := range []account.Interval{account.Hour, account.Day, account.Month} {
			c.must(c.p.counts.Each(c.Context(), shop, m.ID, interval, func(f account.Final) error {
				lines = append(lines, fmt.Sprint("count ", m.Name, interval, f.Dimension, f.Value, f.Start, f.Count, f.Sum, f.Unique))
				return nil
			}))
		}
	}
	people := customer.NewReader(c.p.customer.Store, c.p.facts.Partitions())
	page, err := people.Profiles(shop, customer.ProfileQuery{Size: 100})
	c.must(err)
	for _, p := range page.Profiles {
		text, err := json.Marshal(p)
		c.must(err)
		lines = append(lines, "profile "+string(text))
		events, err := people.Events(shop, customer.EventQuery{Profile: p.ID, Size: 100})
		c.must(err)
		for _, e := range events.Events {
			lines = append(lines, fmt.Sprint("event ", e.ID, e.Time, e.Value, string(e.Properties)))
		}
	}
	if c.p.house != nil {
		for _, q := range []string{"select count(*), sum(value) from events", "select count(*) from profiles"} {
			a, err := c.p.SQL(c.Context(), q, 10)
			c.must(err)
			lines = append(lines, fmt.Sprint("sql ", a.Rows))
		}
	}
	slices.Sort(lines)
	for _, l := range lines {
		fmt.Fprintln(&b, l)
	}
	return b.String()
}

// replay throws all state away and lets it be made again from the logs.
func (c *city) replay() {
	c.Helper()
	c.stop()
	for _, dir := range []string{"state", "snapshots", "warehouse"} {
		c.must(os.RemoveAll(filepath.Join(c.o.Path, dir)))
	}
	c.open()
	c.quiet()
}

// recount lets godwit pipeline check look.
func (c *city) recount() {
	c.Helper()
	c.stop()
	o := c.o
	o.Warehouse.Engine = ""
	p, err := New(c.Context(), o, Deps{Fatal: func(err error) { c.Error(err) }})
	c.must(err)
	r, err := p.Recount(c.Context(), []string{shop + " " + secret + "-1", shop + " o2-7"}, 1, func(float64) {})
	c.must(errors.Join(err, p.Stop(context.Background())))
	if !r.OK() || r.Distinct != 5*60+7 {
		c.Errorf("%d events count; %d counts differ, %d events are missing: %v", r.Distinct, r.Different, r.Missing, r.First)
	}
	c.open()
}

// TestErase: a deleted profile, and those that were merged into it, are taken out of every file of both logs; what is made anew from
// the logs is what it was.
func TestErase(t *testing.T) {
	c := newCity(t, DefaultOptions().Warehouse.Engine)
	id := c.live()
	c.delete(id)
	c.put(c.event(secret+"-late", "id:"+id.String(), "mail:"+secret+"@mail.test")) // named by its id, of which nothing comes any more
	before := c.picture()
	for c.p.Erasure().Waiting != 1 { // it follows the log
		time.Sleep(10 * time.Millisecond)
	}
	if c.p.eraser.Status().Oldest.IsZero() || len(c.found("log")) == 0 {
		t.Fatal("nothing waits, or the logs never had the victim")
	}
	c.must(c.pass(t.Context()))
	if s := c.p.Erasure(); s.Waiting != 0 || s.Last.Profiles != 1 || s.Last.Intake < 10 || s.Last.Facts < 10 {
		t.Errorf("after the pass: %+v", s)
	}
	if after := c.picture(); after != before {
		t.Errorf("the pass changed states:\n%s\n%s", before, after)
	}
	c.recount()
	if names := c.found("log", "erase"); len(names) > 0 {
		t.Errorf("still in %v", names)
	}
	c.replay()
	if after := c.picture(); after != before {
		t.Errorf("a replay ends otherwise:\n%s\n%s", before, after)
	}
	c.recount()
	if names := c.found("log", "state", "snapshots", "warehouse"); len(names) > 0 {
		t.Errorf("after a replay in %v", names)
	}
	if s := c.p.Erasure(); s.Waiting != 0 || s.Last.Profiles != 1 {
		t.Errorf("after a replay: %+v", s)
	}
}

// countdown is a context that ends when it was asked for its error so many times after a file was there.
type countdown struct {
	context.Context
	file string
	left atomic.Int64
	end  context.CancelFunc
}

func (c *countdown) Err() error {
	if _, err := os.Stat(c.file); err == nil && c.left.Add(-1) < 0 {
		c.end()
	}
	return c.Context.Err()
}

// TestEraseCrash: a pass that breaks off anywhere changes no state, and goes on by itself after the next start, even if
// all state is made anew meanwhile.
func TestEraseCrash(t *testing.T) {
	c := newCity(t, "")
	c.delete(c.live())
	before := c.picture()
	for c.p.Erasure().Waiting != 1 {
		time.Sleep(10 * time.Millisecond)
	}
	had := len(c.found("log"))
	tries := 0
	for steps := int64(1); ; steps += 20 + steps/2 {
		ctx, cancel := context.WithCancel(t.Context())
		limited := &countdown{Context: ctx, file: filepath.Join(c.o.Path, "erase", "plan"), end: cancel}
		limited.left.Store(steps)
		err := c.pass(limited)
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("after %d tries: %v", tries, err)
		}
		if got := c.picture(); got != before {
			t.Fatalf("after half a pass:\n%s\n%s", before, got)
		}
		tries++
		if got := len(c.found("log")); tries > 5 && got > 0 && got < had {
			break // some segments are rewritten and some are not
		}
	}
	c.replay()
	if got := c.picture(); got != before {
		t.Fatalf("after a replay in the middle of a pass:\n%s\n%s", before, got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for c.p.Erasure().Waiting != 0 {
		time.Sleep(10 * time.Millisecond)
		c.must(ctx.Err())
	}
	c.recount()
	c.stop()
	if names := c.found("log", "erase"); len(names) > 0 {
		t.Errorf("still in %v", names)
	}
}

// TestEraseWaits: nothing is erased while a consumer has not applied the deletion, and the status tells.
func TestEraseWaits(t *testing.T) {
	c := newCity(t, "")
	id := c.live()
	c.must(c.p.StopConsumer(t.Context(), consumerAccount))
	at, err := c.p.door.Put(t.Context(), []*fact.Intake{{Kind: fact.KindMerge, Tenant: shop, Merge: &fact.Merge{Source: id}}})
	c.must(err)
	c.wait(at)
	for c.p.Erasure().Waiting != 1 {
		time.Sleep(10 * time.Millisecond)
	}
	had := len(c.found("log"))
	for began := time.Now(); ; { // until all markers are met
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := c.pass(ctx)
		cancel()
		if err != nil && strings.Contains(err.Error(), "consumer account") {
			break
		}
		if err != nil || time.Since(began) > 30*time.Second {
			t.Fatalf("a pass ended with %v", err)
		}
	}
	if got := len(c.found("log")); got < had || c.p.Erasure().Waiting != 1 {
		t.Error("it was erased all the same")
	}
	c.must(c.p.StartConsumer(consumerAccount))
	c.must(c.pass(t.Context()))
	c.stop()
	if names := c.found("log"); len(names) > 0 {
		t.Errorf("still in %v", names)
	}
}
