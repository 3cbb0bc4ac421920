//go:build e2e

package e2e

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// dialogue is one SMTP connection of a script.
type dialogue struct {
	net.Conn
	r    *bufio.Reader
	last string // the last reply, lines separated by LF
}

func (r *run) talk(name, args, body string) error {
	verb, rest := cut(args)
	if verb == "open" {
		return r.open(name, rest)
	}
	d := r.conns[name]
	if d == nil {
		return fmt.Errorf("%q is neither a step nor an open connection", name)
	}
	_ = d.SetDeadline(time.Now().Add(rig.Patience))
	switch verb {
	case "->":
		_, err := io.WriteString(d, rest+"\r\n")
		return err
	case "<-", "<~":
		if err := d.reply(); err != nil {
			return fmt.Errorf("%w, while waiting for %s", err, rest)
		}
		if verb == "<~" {
			return r.match(rest, d.last)
		}
		if !strings.HasPrefix(d.last, rest) {
			return fmt.Errorf("reply is %q, not %s", d.last, rest)
		}
		return nil
	case "has":
		return r.match(rest, d.last)
	case "lacks":
		if r.match(rest, d.last) == nil {
			return fmt.Errorf("reply %q matches %s", d.last, rest)
		}
		return nil
	case "data":
		_, err := d.Write(dotted(body))
		return err
	case "raw":
		b, err := goStrings(rest)
		if err == nil {
			_, _ = d.Write(b) // a server may have had enough before the end
		}
		return err
	case "drip":
		b, err := goStrings(rest)
		if err != nil {
			return err
		}
		return d.drip(b)
	case "tls":
		return d.secure()
	case "closed":
		return d.closed()
	}
	return fmt.Errorf("no verb %q", verb)
}

// open connects: "[LISTENER] [tls]".
func (r *run) open(name, args string) error {
	address, secure := "", false
	if len(r.engine.Ports.SMTP) > 0 {
		address = r.engine.Ports.SMTP[0]
	}
	for _, word := range strings.Fields(args) {
		switch word {
		case "tls":
			secure = true
			continue
		case "http":
			address = r.engine.Ports.HTTP[0]
			continue
		}
		n, err := strconv.Atoi(word)
		if err != nil || n >= len(r.engine.Ports.SMTP) {
			return fmt.Errorf("no listener %s", word)
		}
		address = r.engine.Ports.SMTP[n]
	}
	c, err := net.DialTimeout("tcp", address, rig.Patience)
	if err != nil {
		return err
	}
	if old := r.conns[name]; old != nil {
		_ = old.Close()
	}
	d := &dialogue{Conn: c, r: bufio.NewReader(c)}
	r.conns[name] = d
	if secure {
		return d.secure()
	}
	return nil
}

func (d *dialogue) secure() error {
	c := tls.Client(d.Conn, &tls.Config{InsecureSkipVerify: true})
	_ = c.SetDeadline(time.Now().Add(rig.Patience))
	if err := c.Handshake(); err != nil {
		return err
	}
	d.Conn, d.r = c, bufio.NewReader(c)
	return nil
}

var replyLine = regexp.MustCompile(`^[2-5][0-9]{2}[ -]`)

// reply reads a whole reply and is strict about its form.
func (d *dialogue) reply() error {
	var lines []string
	for {
		line, err := d.r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("reading a reply: %w (so far %q)", err, strings.Join(append(lines, line), "\n"))
		}
		text, ok := strings.CutSuffix(line, "\r\n")
		if !ok || !replyLine.MatchString(text) || len(line) > 512 {
			return fmt.Errorf("%q is no reply line", line)
		}
		lines = append(lines, text)
		if text[3] == ' ' {
			d.last = strings.Join(lines, "\n")
			return nil
		}
	}
}

// drip sends bytes one at a time, again and again, until the peer has had
// enough. What came from it meanwhile is the last reply.
func (d *dialogue) drip(b []byte) error {
	gone := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(io.LimitReader(d.r, 1<<20)) // an error is an end too
		gone <- all
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(rig.Patience)
	for i := 0; ; i++ {
		select {
		case all := <-gone:
			d.last = strings.ReplaceAll(strings.TrimSuffix(string(all), "\r\n"), "\r\n", "\n")
			return nil
		case <-timeout:
			return errors.New("the peer still takes it")
		case <-tick.C:
			_, _ = d.Write(b[i%len(b) : i%len(b)+1]) // the reader sees the end
		}
	}
}

// closed waits for the end of the connection and wants nothing before it.
func (d *dialogue) closed() error {
	rest, err := io.ReadAll(io.LimitReader(d.r, 1<<20))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the connection is still open")
	}
	if len(rest) > 0 {
		return fmt.Errorf("before the end came %q", shorten(string(rest)))
	}
	return nil
}

// dotted is a message as DATA carries it.
func dotted(body string) []byte {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSuffix(body, "\n"), "\n") {
		if strings.HasPrefix(line, ".") {
			b.WriteByte('.')
		}
		b.WriteString(line + "\r\n")
	}
	b.WriteString(".\r\n")
	return []byte(b.String())
}

// send injects one message: "FROM TO...". ${id} becomes the id of the reply;
// with one recipient it is the message's.
func (r *run) send(args, body string) error {
	words := strings.Fields(args)
	if len(words) < 2 {
		return errors.New("send needs a reverse path and recipients")
	}
	lines := []string{"EHLO client.test", "MAIL FROM:" + bracket(words[0])}
	for _, to := range words[1:] {
		lines = append(lines, "RCPT TO:"+bracket(to))
	}
	if err := r.talk("send", "open", ""); err != nil {
		return err
	}
	if err := r.talk("send", "<- 220", ""); err != nil {
		return err
	}
	for _, line := range append(lines, "DATA") {
		want := "<- 250"
		if line == "DATA" {
			want = "<- 354"
		}
		if err := errors.Join(r.talk("send", "-> "+line, ""), r.talk("send", want, "")); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	return errors.Join(r.talk("send", "data", body), r.talk("send", `<~ ^250 2\.0\.0 .*queued as (?P<id>[0-9a-f-]{36})`, ""),
		r.talk("send", "-> QUIT", ""), r.talk("send", "<- 221", ""), r.talk("send", "closed", ""))
}

func bracket(address string) string {
	if strings.HasPrefix(address, "<") {
		return address
	}
	return "<" + address + ">"
}
