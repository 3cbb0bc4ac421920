package sink

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	hearingBacklog = 4096 // the kernel lowers it to net.core.somaxconn
	fillTime       = time.Second
	maxFill        = 8
)

// ear is a listener that can go deaf: from then on connects to it neither
// succeed nor fail. A listening socket whose queue is full drops what asks to
// be let in (Linux: net.ipv4.tcp_abort_on_overflow = 0, the default), and the
// shortest queue holds one connection. So an ear is deaf when its queue is
// cut to the shortest, a connection of our own is in it and nobody accepts.
type ear struct {
	*net.TCPListener
	mu      sync.Mutex
	deaf    chan struct{} // closed when it hears again; nil: it hears
	fillers []net.Conn    // in the queue of a deaf ear
}

// fillerAddress is where our own connections come from, and no client's.
const fillerAddress = "127.255.255.253"

func newEar(addr string) (*ear, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("sink: %s is not TCP", addr)
	}
	return &ear{TCPListener: tcp}, nil
}

// deafen makes connects hang. What was connected before goes on.
func (e *ear) deafen() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.deaf != nil {
		return nil
	}
	e.deaf = make(chan struct{})
	err := e.SetDeadline(time.Unix(1, 0)) // ends the Accept under way, and each until it hears again
	if err == nil {
		err = e.setBacklog(0)
	}
	if err == nil {
		err = e.fill()
	}
	if err != nil {
		return errors.Join(err, e.hearLocked())
	}
	return nil
}

// fill connects until the queue is full. The Accept that was under way may take the first.
func (e *ear) fill() error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(fillerAddress)}, Timeout: fillTime}
	for range maxFill {
		c, err := d.Dial("tcp", e.Addr().String())
		if err == nil {
			e.fillers = append(e.fillers, c)
		}
		if full, ferr := queueFull(e.TCPListener); full || ferr != nil {
			return ferr
		}
		if err != nil {
			return err
		}
	}
	return errors.New("sink: connections of our own do not stay in the queue")
}

// hear accepts again. Connects that hung come in when their senders try again, a second later or more.
func (e *ear) hear() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hearLocked()
}

func (e *ear) hearLocked() error {
	if e.deaf == nil {
		return nil
	}
	err := errors.Join(e.setBacklog(hearingBacklog), e.SetDeadline(time.Time{}))
	for _, c := range e.fillers {
		c.Close()
	}
	close(e.deaf)
	e.deaf, e.fillers = nil, nil
	return err
}

// setBacklog changes the length of the queue: listen(2) may be called again.
func (e *ear) setBacklog(n int) error {
	raw, err := e.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = syscall.Listen(int(fd), n) })
	return errors.Join(err, failed)
}

// Accept waits while the ear is deaf and passes over connections of our own.
func (e *ear) Accept() (net.Conn, error) {
	for {
		c, err := e.TCPListener.Accept()
		if err == nil {
			if peerOf(c).Addr().String() != fillerAddress {
				return c, nil
			}
			c.Close()
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		if hears := e.hears(); hears != nil {
			<-hears
		}
	}
}

func (e *ear) hears() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.deaf
}

// Close ends the listener, deaf or not.
func (e *ear) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.TCPListener.Close()
	_ = e.hearLocked() // fails on the closed socket, and that is what is wanted
	return err
}

// swallowers is the number of addresses that swallow connects.
const swallowers = 16

// swallowAddress is the one of the domain in that place: 127.254.0.1 and so on.
func swallowAddress(n int) net.IP { return net.IPv4(127, 254, 0, byte(1+n%swallowers)).To4() }

// bindSwallowers binds the addresses that swallow connects, on the port of all, if any domain needs them.
func (s *Sink) bindSwallowers() error {
	if !slices.ContainsFunc(s.providers, func(p *provider) bool { return p.Swallow > 0 }) {
		return nil
	}
	for n := range swallowers {
		e, err := newEar(net.JoinHostPort(swallowAddress(n).String(), strconv.Itoa(s.Port())))
		if err != nil {
			return fmt.Errorf("swallow: %w", err)
		}
		s.listeners = append(s.listeners, e)
	}
	return nil
}

// deafenAll makes the ears deaf, all at once: each takes a moment.
func deafenAll(ears []*ear) error {
	results := make(chan error, len(ears))
	for _, e := range ears {
		go func() { results <- e.deafen() }()
	}
	var err error
	for range ears {
		err = errors.Join(err, <-results)
	}
	return err
}
