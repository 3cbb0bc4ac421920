package smtp

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gosmtp "github.com/emersion/go-smtp"
	"github.com/pelletier/go-toml/v2"
)

// A dialogue is a script of testdata; testdata/README.md has the format.
type dialogue struct {
	name  string
	steps []step
	set   string // lines of TOML for Options
	flags map[string]bool
	skip  string // why it is not run with go-smtp's server
}

type step struct {
	line int    // in the file
	op   string // C, C\, S, S~, S*, G, M, …
	arg  string
}

func loadDialogue(path string) (*dialogue, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := &dialogue{name: filepath.Base(path), flags: map[string]bool{}}
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimRight(line, " "); line == "" || line[0] == '#' {
			continue
		}
		op, arg, _ := strings.Cut(line, " ")
		op = strings.TrimSuffix(op, ":")
		arg = strings.TrimPrefix(arg, " ")
		switch op {
		case "set":
			d.set += arg + "\n"
		case "with":
			for _, f := range strings.Fields(arg) {
				d.flags[f] = true
			}
		case "go-smtp-skip":
			d.skip = arg
		case "C", `C\`, "S", "S~", "S*", "G", "M", "no-mail", "silence", "closed", "close", "wait", "tls", "drain", "go-smtp-stop":
			d.steps = append(d.steps, step{i + 1, op, arg})
		default:
			return nil, fmt.Errorf("%s:%d: unknown step %q", d.name, i+1, op)
		}
	}
	return d, nil
}

func (d *dialogue) options(t *testing.T) Options {
	opt := DefaultOptions()
	opt.Domain = "mx.example"
	if err := toml.NewDecoder(strings.NewReader(d.set)).DisallowUnknownFields().Decode(&opt); err != nil {
		t.Fatalf("%s: set: %v", d.name, err)
	}
	return opt
}

// player runs a dialogue against one server.
type player struct {
	t     *testing.T
	d     *dialogue
	p     *peer
	rec   *recorder
	other bool // go-smtp's server
	drain func(time.Duration)
}

func (y *player) errorf(s step, format string, args ...any) {
	y.t.Helper()
	y.t.Errorf("%s:%d: %s", y.d.name, s.line, fmt.Sprintf(format, args...))
}

func (y *player) play() {
	for i := 0; i < len(y.d.steps); i++ {
		s := y.d.steps[i]
		var instead *step
		if i+1 < len(y.d.steps) && y.d.steps[i+1].op == "G" {
			i++
			instead = &y.d.steps[i]
		}
		if s.op == "go-smtp-stop" {
			if y.other {
				return
			}
			continue
		}
		if !y.other || instead == nil {
			if wrong := y.step(s); wrong != "" {
				y.errorf(s, "%s", wrong)
				return
			}
			continue
		}
		// A known difference: it must still be one.
		got := y.differs(s, *instead)
		if got != "" {
			y.errorf(*instead, "%s", got)
			return
		}
	}
}

// step runs one step and says what was wrong.
func (y *player) step(s step) string {
	switch s.op {
	case "C":
		y.p.send([]byte(s.arg + "\r\n"))
	case `C\`:
		raw, err := unquote(s.arg)
		if err != nil {
			return err.Error()
		}
		y.p.send(raw)
	case "S", "S~", "S*":
		return y.reply(s)
	case "M":
		return y.message(s.arg)
	case "no-mail":
		if m, ok := y.rec.take(); ok {
			return fmt.Sprintf("a message was accepted: %+v", m)
		}
	case "silence":
		if rest, eof := y.p.rest(); rest != "" || eof {
			return fmt.Sprintf("want silence, got %q, closed %v", rest, eof)
		}
	case "closed":
		if rest, eof := y.p.rest(); rest != "" || !eof {
			return fmt.Sprintf("want a closed connection, got %q, closed %v", rest, eof)
		}
	case "close":
		y.p.close()
		synctest.Wait()
	case "wait":
		d, err := time.ParseDuration(s.arg)
		if err != nil {
			return err.Error()
		}
		time.Sleep(d)
	case "tls":
		synctest.Wait()
		if err := y.p.startTLS(); err != nil {
			return err.Error()
		}
	case "drain":
		d, err := time.ParseDuration(s.arg)
		if err != nil {
			return err.Error()
		}
		go y.drain(d)
	}
	return ""
}

// unquote takes Go strings joined by +, each with an optional *count.
func unquote(arg string) ([]byte, error) {
	var out []byte
	for rest := arg; ; {
		q, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", rest, err)
		}
		text, _ := strconv.Unquote(q)
		rest = rest[len(q):]
		count := 1
		if strings.HasPrefix(rest, "*") {
			digits := rest[1:]
			if i := strings.IndexByte(digits, ' '); i >= 0 {
				digits = digits[:i]
			}
			if count, err = strconv.Atoi(digits); err != nil {
				return nil, err
			}
			rest = rest[1+len(digits):]
		}
		out = append(out, strings.Repeat(text, count)...)
		if rest == "" {
			return out, nil
		}
		if !strings.HasPrefix(rest, " + ") {
			return nil, fmt.Errorf("%q: want \" + \"", rest)
		}
		rest = rest[3:]
	}
}

func (y *player) reply(s step) string {
	for {
		line, ok := y.p.line()
		if !ok {
			rest, eof := y.p.rest()
			return fmt.Sprintf("want %q, got nothing (%q, closed %v)", s.arg, rest, eof)
		}
		if !y.matches(s, line) {
			return fmt.Sprintf("want %q, got %q", s.arg, line)
		}
		if s.op != "S*" || len(line) > 3 && line[3] == ' ' {
			return ""
		}
	}
}

// matches compares with our server's whole line, with go-smtp's only the code: its texts and
// enhanced codes are its own.
func (y *player) matches(s step, line string) bool {
	want := s.arg
	if y.other {
		want = strings.TrimPrefix(want, "^")
		want = want[:min(3, len(want))]
		return strings.HasPrefix(line, want)
	}
	if s.op == "S~" {
		return regexp.MustCompile(want).MatchString(line)
	}
	return strings.HasPrefix(line, want)
}

func (y *player) message(want string) string {
	synctest.Wait()
	m, ok := y.rec.take()
	if !ok {
		return "no message was accepted"
	}
	head, quoted, _ := strings.Cut(want, " | ")
	if m.from == "" {
		m.from = "<>"
	}
	if got := m.from + " > " + strings.Join(m.to, ","); got != head {
		return fmt.Sprintf("envelope: want %q, got %q", head, got)
	}
	data, err := unquote(quoted)
	if err != nil {
		return err.Error()
	}
	if string(data) != m.data {
		return fmt.Sprintf("data: want %.200q, got %.200q", data, m.data)
	}
	return ""
}

// differs runs a step for which go-smtp is known to do something else.
func (y *player) differs(s, instead step) string {
	switch {
	case instead.arg == "silence":
		return y.step(step{instead.line, "silence", ""})
	case instead.arg == "closed":
		return y.step(step{instead.line, "closed", ""})
	case instead.arg == "no-mail":
		return y.step(step{instead.line, "no-mail", ""})
	case s.op == "M":
		return y.message(instead.arg)
	case s.op == "no-mail":
		return y.message(instead.arg)
	case s.op[0] != 'S':
		// A state such as closed: go-smtp says something instead.
		if y.step(s) == "" {
			return "listed difference is none: " + instead.arg
		}
	case strings.HasPrefix(instead.arg, s.arg[:min(3, len(s.arg))]) && len(instead.arg) == 3:
		return "listed difference is none: " + instead.arg
	}
	op := "S"
	if s.op == "S*" {
		op = "S*"
	}
	line := ""
	for {
		var ok bool
		if line, ok = y.p.line(); !ok {
			rest, eof := y.p.rest()
			return fmt.Sprintf("want the known difference %q, got nothing (%q, closed %v)", instead.arg, rest, eof)
		}
		if !strings.HasPrefix(line, instead.arg) {
			return fmt.Sprintf("want the known difference %q, got %q", instead.arg, line)
		}
		if op == "S" || len(line) > 3 && line[3] == ' ' {
			return ""
		}
	}
}

func TestDialogues(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.dlg")
	if len(files) == 0 {
		t.Fatal("no scripts")
	}
	cfg := serverTLS(t)
	for _, file := range files {
		d, err := loadDialogue(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run("godwit/"+d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playOurs(t, d, cfg) })
		})
		t.Run("go-smtp/"+d.name, func(t *testing.T) {
			if d.skip != "" {
				t.Skip(d.skip)
			}
			synctest.Test(t, func(t *testing.T) { playTheirs(t, d, cfg) })
		})
	}
}

func (d *dialogue) recorder() *recorder {
	return &recorder{xclient: d.flags["xclient"], auth: d.flags["auth"]}
}

func playOurs(t *testing.T, d *dialogue, cfg *tls.Config) {
	rec := d.recorder()
	deps := Deps{Backend: rec}
	if d.flags["tls"] {
		deps.TLS = cfg
	}
	srv, err := New(d.options(t), deps)
	if err != nil {
		t.Fatal(err)
	}
	client, server := net.Pipe()
	l := &oneListener{conns: make(chan net.Conn, 1), stop: make(chan struct{})}
	l.conns <- server
	go func() { _ = srv.Serve(l) }()
	y := &player{t: t, d: d, p: newPeer(client), rec: rec}
	y.drain = func(d time.Duration) {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		defer cancel()
		_ = srv.Shutdown(ctx)
	}
	y.play()
	y.p.close()
	close(y.p.writes)
	time.Sleep(2 * time.Minute) // let sessions that sleep end
	_ = srv.Close()
	synctest.Wait()
	if n := srv.Conns(); n != 0 {
		t.Errorf("%d connections left", n)
	}
	if rec.sessions != rec.logouts {
		t.Errorf("%d sessions, %d logouts", rec.sessions, rec.logouts)
	}
}

func playTheirs(t *testing.T, d *dialogue, cfg *tls.Config) {
	rec, opt := d.recorder(), d.options(t)
	srv := gosmtp.NewServer(Adapt(rec))
	srv.Domain = opt.Domain
	srv.MaxRecipients = opt.MaxRecipients
	srv.MaxMessageBytes = int64(opt.MaxMessageBytes)
	srv.ReadTimeout = opt.IdleTimeout.D()
	srv.WriteTimeout = opt.WriteTimeout.D()
	srv.AllowInsecureAuth = opt.AllowInsecureAuth
	srv.EnableSMTPUTF8 = opt.SMTPUTF8
	srv.EnableDSN = opt.DSN
	srv.ErrorLog = nullLog{}
	if d.flags["tls"] {
		srv.TLSConfig = cfg
	}
	client, server := net.Pipe()
	l := &oneListener{conns: make(chan net.Conn, 1), stop: make(chan struct{})}
	l.conns <- server
	go func() { _ = srv.Serve(l) }()
	synctest.Wait()
	y := &player{t: t, d: d, p: newPeer(client), rec: rec, other: true}
	y.drain = func(d time.Duration) {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		defer cancel()
		_ = srv.Shutdown(ctx)
	}
	y.play()
	y.p.close()
	close(y.p.writes)
	time.Sleep(2 * time.Minute)
	_ = srv.Close()
	_ = server.Close()
}

type nullLog struct{}

func (nullLog) Printf(string, ...any) {}
func (nullLog) Println(...any)        {}
