package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/godwit-mta/godwit/config"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

// adminFlags say how to reach a running server.
type adminFlags struct {
	Admin     string `env:"GODWIT_ADMIN" placeholder:"ADDR" help:"Admin API: http://host:port, https://host:port or the path of a Unix socket." group:"Server"`
	TokenFile string `type:"existingfile" placeholder:"FILE" help:"File with the admin token; GODWIT_ADMIN_TOKEN holds the token itself. Not needed over a Unix socket." group:"Server"`
	Config    string `short:"c" type:"existingfile" placeholder:"FILE" help:"Take the address from this configuration file." group:"Server"`
	JSON      bool   `name:"json" help:"Print JSON." group:"Server"`
}

// tokenEnv holds the admin token, so that it need not stand on the command line, where others see it.
const tokenEnv = "GODWIT_ADMIN_TOKEN"

// admin is a client that explains failures.
type admin struct {
	*adminapi.Client
	address string
}

// client connects to nothing yet; calls do.
func (f *adminFlags) client() (*admin, error) {
	address, err := f.address()
	if err != nil {
		return nil, err
	}
	token := os.Getenv(tokenEnv)
	if f.TokenFile != "" {
		b, err := os.ReadFile(f.TokenFile)
		if err != nil {
			return nil, usageError{err}
		}
		token = strings.TrimSpace(string(b))
	}
	c, err := adminapi.NewClient(adminapi.ClientOptions{URL: address, Key: token, Attempts: 2})
	if err != nil {
		return nil, usageError{fmt.Errorf("--admin: %q is not http://host:port, https://host:port or the path of a Unix socket", address)}
	}
	return &admin{Client: c, address: address}, nil
}

// address is where the API is: by flag, by configuration file, or where it is by default.
func (f *adminFlags) address() (string, error) {
	switch {
	case f.Admin != "":
		return adminURL(f.Admin), nil
	case f.Config != "":
		file, err := config.Load(f.Config)
		if err != nil {
			return "", usageError{err}
		}
		return listenedAt(f.Config, file.Admin.Listen)
	}
	return listenedAt("", adminapi.DefaultOptions().Listen)
}

func adminURL(s string) string {
	switch {
	case strings.Contains(s, "://"), strings.HasPrefix(s, "unix:"):
		return s
	case strings.HasPrefix(s, "/"), strings.HasPrefix(s, "./"):
		return "unix:" + s
	}
	return "http://" + s
}

// listenedAt chooses among the addresses that a server listens on: a Unix
// socket first, which needs no token.
func listenedAt(path string, listen []string) (string, error) {
	for _, a := range listen {
		if strings.HasPrefix(a, "unix:") {
			return a, nil
		}
	}
	for _, a := range listen {
		host, port, err := net.SplitHostPort(a)
		if err != nil || port == "0" {
			continue
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		return "http://" + net.JoinHostPort(host, port), nil
	}
	return "", usageError{fmt.Errorf("%s: admin.listen has no address of a fixed port; tell it by --admin", path)}
}

// explain says what to do about a failed call.
func (a *admin) explain(err error) error {
	if err == nil {
		return nil
	}
	var problem *wire.Problem
	if errors.As(err, &problem) {
		return a.explainProblem(problem)
	}
	const way = "give its address by --admin ADDR (or GODWIT_ADMIN) or -c CONFIG"
	where := "the admin API at " + a.address
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot reach %s: is the server running there? If it listens elsewhere, %s", where, way)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot reach %s: permission denied; run as the server's user or root", where)
	}
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("cannot reach %s: %w; %s", where, u.Err, way)
	}
	return err
}

// notConfigured reports whether the server has no such thing.
func notConfigured(err error) bool {
	var problem *wire.Problem
	return errors.As(err, &problem) && problem.Status == http.StatusNotImplemented
}

func (a *admin) explainProblem(p *wire.Problem) error {
	switch p.Status {
	case http.StatusUnauthorized:
		return fmt.Errorf("the admin API at %s refused the token: put one of admin.tokens into %s or --token-file FILE; its Unix socket needs none", a.address, tokenEnv)
	case http.StatusTooManyRequests:
		return fmt.Errorf("the admin API at %s refuses this address for a while after too many wrong tokens", a.address)
	}
	if len(p.Errors) == 0 {
		return fmt.Errorf("%s answered %d %s: is that the admin API?", a.address, p.Status, http.StatusText(p.Status))
	}
	var parts []string
	for _, e := range p.Errors {
		parts = append(parts, e.Detail)
		if e.Detail == "" {
			parts[len(parts)-1] = e.Title
		}
	}
	return errors.New(strings.Join(parts, "; "))
}

// filterFlags choose messages.
type filterFlags struct {
	Tenant    string `placeholder:"NAME" help:"Only this tenant; * and ? match any." group:"Filter"`
	Stream    string `placeholder:"NAME" help:"Only this stream." group:"Filter"`
	Domain    string `placeholder:"NAME" help:"Only this recipient domain." group:"Filter"`
	Site      string `placeholder:"NAME" help:"Only this site." group:"Filter"`
	Recipient string `placeholder:"ADDR" help:"Only this recipient." group:"Filter"`
}

func (f *filterFlags) filter() adminapi.Filter {
	return adminapi.Filter{Tenant: f.Tenant, Stream: f.Stream, Domain: strings.ToLower(f.Domain), Site: f.Site, Recipient: f.Recipient}
}

// actionFlags choose messages to act on: nothing chosen is a mistake.
type actionFlags struct {
	filterFlags
	Message string `placeholder:"ID" help:"Only this message." group:"Filter"`
	All     bool   `help:"Really everything." group:"Filter"`
}

func (f *actionFlags) filter() (adminapi.Filter, error) {
	out := f.filterFlags.filter()
	out.All = f.All
	if f.Message != "" {
		id, err := mail.ParseID(f.Message)
		if err != nil {
			return out, usageError{fmt.Errorf("--message: %w", err)}
		}
		out.Message = id
	}
	switch {
	case out.Empty() && !out.All:
		return out, usageError{errors.New("nothing is chosen: give --message, --tenant, --stream, --domain, --site or --recipient, or --all for everything")}
	case !out.Empty() && out.All:
		return out, usageError{errors.New("--all does not go with other filters")}
	}
	if err := out.Validate(); err != nil {
		return out, usageError{err}
	}
	return out, nil
}
