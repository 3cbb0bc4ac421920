package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The uploads of the figure relay.uploads_200.anon.
const (
	uploadConnections = 200
	uploadSize        = 50 << 20
)

// uploads sends 200 messages of nearly 50 MB at the same time, delivery
// suspended, and watches the engine's memory.
func (b *bench) uploads(ctx context.Context) (err error) {
	s, err := startSink(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	dir := filepath.Join(b.dir, "uploads")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	e, err := b.startEngine(ctx, dir, s, engineOptions{})
	if err != nil {
		return err
	}
	if err := b.uploadAll(ctx, e); err != nil {
		return errors.Join(err, fmt.Errorf("engine's log: %s", e.tail()), e.kill())
	}
	return e.stop()
}

func (b *bench) uploadAll(ctx context.Context, e *engine) error {
	if err := e.suspendAll(ctx); err != nil {
		return err
	}
	peak := watchAnon(ctx, e.pid)
	begin := time.Now()
	results := make(chan error, uploadConnections)
	for i := range uploadConnections {
		go func() { results <- upload(ctx, e.smtp, i) }()
	}
	put, failed := 0, []error(nil)
	for range uploadConnections {
		if err := <-results; err == nil {
			put++
		} else {
			failed = append(failed, err)
		}
	}
	most := peak()
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d uploads failed, the first: %w", len(failed), uploadConnections, failed[0])
	}
	if n, err := e.queued(ctx); err != nil || n != int64(put) {
		return errors.Join(err, fmt.Errorf("%d acknowledged, %d in the queue", put, n))
	}
	b.say("    %d uploads of %d MB at a time in %.1f s; RssAnon at most %.0f MiB", put, uploadSize>>20, time.Since(begin).Seconds(), float64(most)/(1<<20))
	b.set("relay.uploads_200.anon", float64(most)/(1<<20))
	return nil
}

// upload sends one large message and waits for its 250.
func upload(ctx context.Context, address string, n int) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	r := bufio.NewReader(c)
	if err := reply(r, "220"); err != nil {
		return err
	}
	for _, step := range [][2]string{{"EHLO bench", "250"}, {"MAIL FROM:<b@bench.test>", "250"},
		{fmt.Sprintf("RCPT TO:<u%d@d0.test>", n), "250"}, {"DATA", "354"}} {
		if _, err := fmt.Fprintf(c, "%s\r\n", step[0]); err != nil {
			return err
		}
		if err := reply(r, step[1]); err != nil {
			return err
		}
	}
	if err := writeLarge(c, n); err != nil {
		return err
	}
	return reply(r, "250")
}

func writeLarge(c net.Conn, n int) error {
	if _, err := fmt.Fprintf(c, "Subject: upload %d\r\n\r\n", n); err != nil {
		return err
	}
	block := []byte(strings.Repeat(strings.Repeat("x", 76)+"\r\n", 1000))
	for sent := 0; sent+len(block) < uploadSize-(64<<10); sent += len(block) {
		if _, err := c.Write(block); err != nil {
			return err
		}
	}
	_, err := c.Write([]byte(".\r\n"))
	return err
}

// reply reads one reply, several lines of it, and compares its code.
func reply(r *bufio.Reader, code string) error {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, code) {
			return fmt.Errorf("want %s, got %q", code, line)
		}
		if len(line) > 3 && line[3] == ' ' {
			return nil
		}
	}
}
