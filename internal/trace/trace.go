// Package trace keeps the dialogue of recent connections in memory, so that
// "what did they say to each other?" can be answered on a running system.
// It is bounded: the oldest trace makes room for the newest.
package trace

import (
	"fmt"
	"net"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of one recorder.
const (
	DefaultTraces = 256
	maxLines      = 200
	maxLine       = 300
)

// Recorder keeps the newest traces. It records only while it is on; a nil
// Recorder records nothing.
type Recorder struct {
	until atomic.Int64 // Unix nanoseconds

	mu     sync.Mutex
	limit  int
	byKey  map[string]*Trace
	oldest []*Trace
}

// Trace is the dialogue of one connection.
type Trace struct {
	Key     string
	Title   string
	Started time.Time
	Lines   []Line
	Dropped int // lines beyond the bound
}

// Line is one line of a dialogue.
type Line struct {
	At   time.Time
	From byte // C: the client, S: the server
	Text string
}

// New returns a recorder for a number of traces; it is off.
func New(limit int) *Recorder { return &Recorder{limit: limit, byKey: map[string]*Trace{}} }

// On records for the given time from now; 0 stops.
func (r *Recorder) On(d time.Duration) { r.until.Store(time.Now().Add(d).UnixNano()) }

// Active reports whether lines are recorded now.
func (r *Recorder) Active() bool { return r != nil && time.Now().UnixNano() < r.until.Load() }

// Add records a line of the connection with the given key.
func (r *Recorder) Add(key, title string, from byte, text string) {
	if !r.Active() {
		return
	}
	if len(text) > maxLine {
		text = text[:maxLine] + "…"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.byKey[key]
	if t == nil {
		t = r.begin(key, title)
	}
	if len(t.Lines) >= maxLines {
		t.Dropped++
		return
	}
	t.Lines = append(t.Lines, Line{time.Now(), from, strings.ToValidUTF8(text, "?")})
}

func (r *Recorder) begin(key, title string) *Trace {
	if len(r.oldest) >= r.limit {
		delete(r.byKey, r.oldest[0].Key)
		r.oldest = r.oldest[1:]
	}
	t := &Trace{Key: key, Title: title, Started: time.Now()}
	r.byKey[key] = t
	r.oldest = append(r.oldest, t)
	return t
}

// Traces returns copies, the newest first.
func (r *Recorder) Traces() []Trace {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Trace, 0, len(r.oldest))
	for _, t := range r.oldest {
		c := *t
		c.Lines = append([]Line(nil), t.Lines...)
		list = append(list, c)
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Started.After(list[j].Started) })
	return list
}

// Conn records what goes over a connection, as far as it is readable lines;
// longer writes (message data) are recorded by their size only.
func (r *Recorder) Conn(c net.Conn, key, title string) net.Conn {
	if !r.Active() {
		return c
	}
	return &conn{Conn: c, r: r, key: key, title: title}
}

type conn struct {
	net.Conn
	r          *Recorder
	key, title string
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.add('S', p[:n])
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.add('C', p)
	return c.Conn.Write(p)
}

func (c *conn) add(from byte, p []byte) {
	const longest = 1024
	if len(p) > longest {
		c.r.Add(c.key, c.title, from, fmt.Sprintf("(%d bytes)", len(p)))
		return
	}
	for line := range strings.Lines(string(p)) {
		c.r.Add(c.key, c.title, from, strings.TrimRight(line, "\r\n"))
	}
}
