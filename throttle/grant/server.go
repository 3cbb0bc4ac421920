package grant

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// ServerOptions are what a Server is told.
type ServerOptions struct {
	Name  string // of the authority; clients may expect it
	Token string // that clients must show; "" takes any
}

// ServerDeps is what a Server needs from others.
type ServerDeps struct {
	Keeper *throttle.Keeper
	// Owns tells whether the authority owns a key; nil: all. It is asked for each want.
	Owns func(throttle.Key) bool
	// OnContact is called when a node's contact is complete (all its connections are
	// told) and when that contact is lost. It must not block.
	OnContact func(node string, up bool)
	Logger    *slog.Logger // nil discards
	Metrics   *Metrics     // may be nil
}

// Server is the authority's end of all links. It is safe for concurrent use.
type Server struct {
	o     ServerOptions
	d     ServerDeps
	token [sha256.Size]byte

	mu       sync.Mutex
	contacts map[string]*contact
}

// NewServer returns a server.
func NewServer(o ServerOptions, d ServerDeps) (*Server, error) {
	switch {
	case o.Name == "":
		return nil, errors.New("name: must not be empty")
	case len(o.Name) > maxText:
		return nil, fmt.Errorf("name: more than %d bytes", maxText)
	case len(o.Token) > maxText:
		return nil, fmt.Errorf("token: more than %d bytes", maxText)
	case d.Keeper == nil:
		return nil, errors.New("grant: a server needs a keeper")
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Owns == nil {
		d.Owns = func(throttle.Key) bool { return true }
	}
	if d.OnContact == nil {
		d.OnContact = func(string, bool) {}
	}
	return &Server{o: o, d: d, token: sha256.Sum256([]byte(o.Token)),
		contacts: map[string]*contact{}}, nil
}

// Serve runs one accepted connection, whose first bytes are Magic, until it ends
// or ctx does. The connection is closed then. The error is why, never nil.
func (s *Server) Serve(ctx context.Context, conn net.Conn) error {
	l := newLine(conn, s.d.Keeper.Now)
	stop := context.AfterFunc(ctx, func() { l.end(context.Cause(ctx)) })
	defer stop()
	l.begin(int64(l.now()), 0)
	l.guard()
	node, err := s.greet(l)
	if err != nil {
		l.end(err)
		level := slog.LevelWarn
		if node == "" { // who knows what that was
			level = slog.LevelDebug
		}
		s.d.Logger.Log(ctx, level, "grant link refused", slog.String("address", address(conn)), slog.String("node", node), slog.Any("error", l.err()))
		return l.err()
	}
	c := &contact{s: s, l: l, node: node, gone: make(chan struct{}), since: time.Now(),
		keys: map[uint64]*served{}, nums: map[throttle.Key]uint64{}}
	c.run()
	return l.err()
}

// greet takes the Hello and answers.
func (s *Server) greet(l *line) (node string, err error) {
	if err := l.in.magic(); err != nil {
		return "", err
	}
	t, p, err := l.in.wait()
	if err != nil {
		return "", err
	}
	if t != frameHello {
		return "", errFrame
	}
	h, err := decodeHello(p)
	if err != nil {
		return "", err
	}
	if err := s.check(h); err != nil {
		_, _ = l.conn.Write(appendBye([]byte(Magic), strings.TrimPrefix(err.Error(), "grant: ")))
		return h.name, err
	}
	now := int64(l.now())
	l.begin(now, h.clock)
	_, err = l.conn.Write(appendAnswer([]byte(Magic), answer{Version, now, h.clock, s.o.Name}))
	return h.name, err
}

func (s *Server) check(h hello) error {
	shown := sha256.Sum256([]byte(h.token))
	switch {
	case h.lowest > Version || h.highest < lowest:
		return fmt.Errorf("%w: the node speaks %d to %d, the authority %d to %d", ErrVersion, h.lowest, h.highest, lowest, Version)
	case s.o.Token != "" && subtle.ConstantTimeCompare(shown[:], s.token[:]) != 1:
		return ErrToken
	case h.name == "":
		return errors.New("grant: a node without a name")
	}
	return nil
}

// enter makes c the node's contact, after an older one has ended: that one may be a
// connection whose end we have not seen yet.
func (s *Server) enter(c *contact) error {
	for {
		s.mu.Lock()
		old := s.contacts[c.node]
		if old == nil {
			s.contacts[c.node] = c
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		old.l.end(ErrReplaced)
		select {
		case <-old.gone:
		case <-c.l.done:
			return ErrLost
		}
	}
}

func (s *Server) exit(c *contact) {
	s.mu.Lock()
	if s.contacts[c.node] == c {
		delete(s.contacts, c.node)
	}
	s.mu.Unlock()
	close(c.gone)
}

// Recheck asks Owns again for all keys that clients want, and refuses those that
// the authority does not own any more. Call it when that may have changed.
func (s *Server) Recheck() {
	for _, c := range s.all() {
		c.recheck()
	}
}

func (s *Server) all() []*contact {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*contact, 0, len(s.contacts))
	for _, c := range s.contacts {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *contact) int { return strings.Compare(a.node, b.node) })
	return out
}

// Contact is the state of one contact.
type Contact struct {
	Node      string
	Address   string
	Since     time.Time
	Complete  bool          // all its connections are told
	Age       time.Duration // of the newest echo
	RoundTrip time.Duration // as of the newest heartbeat
	Keys      int           // it has numbers for
}

// Contacts lists the contacts by node.
func (s *Server) Contacts() []Contact {
	contacts := s.all()
	out := make([]Contact, len(contacts))
	for i, c := range contacts {
		out[i] = c.status()
	}
	return out
}

func address(conn net.Conn) string {
	if a := conn.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}
