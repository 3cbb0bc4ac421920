package adminapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestQueues(t *testing.T) {
	b := setup(t)
	for query, want := range map[string]string{
		"":                "a suspended, b held, c delivering, d ready, e waiting; 5 20",
		"?tenant=acme":    "a suspended, b held, c delivering, d ready; 4 19",
		"?state=held":     "b held; 1 5",
		"?limit=2":        "a suspended, b held; 5 20",
		"?tenant=nobody":  "; 0 0",
		"?state=suspence": "; 0 0",
	} {
		got := decode[QueuesResponse](t, b.do("GET", PathQueues+query, ""))
		var list []string
		for _, q := range got.Queues {
			list = append(list, q.Domain+" "+q.State)
		}
		if s := fmt.Sprintf("%s; %d %d", strings.Join(list, ", "), got.Total, got.Messages); query != "?state=suspence" && s != want {
			t.Errorf("%s: %s, want %s", query, s, want)
		}
	}
}

func TestMessagesPages(t *testing.T) {
	b := setup(t)
	var got []string
	query := "?limit=2"
	for range 5 {
		page := decode[MessagesResponse](t, b.do("GET", PathMessages+query, ""))
		for _, m := range page.Messages {
			got = append(got, m.Recipient)
		}
		if page.Next == "" {
			break
		}
		query = "?limit=2&cursor=" + page.Next
	}
	want := []string{"r0@d0.example", "r1@d1.example", "r2@d0.example", "r3@d1.example", "r4@d0.example"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if page := decode[MessagesResponse](t, b.do("GET", PathMessages+"?domain=d1.example&state=deferred&limit=2", "")); len(page.Messages) != 2 || page.Next != "" {
		t.Errorf("%+v", page)
	}
}

func TestMessage(t *testing.T) {
	b := setup(t)
	raw, content := b.engine.waiting[0].Message, b.engine.waiting[2].Message
	got := decode[MessageResponse](t, b.do("GET", "/admin/v1/messages/"+raw.ID.String()+"?header=true", ""))
	if got.Message.Recipient != raw.Recipient || got.Substitutions != `{"x":1}` || got.Header != "From: a@example.com\r\nSubject: S" ||
		len(got.Events) != 1 || got.Events[0].TookMS != 1.5 || got.Message.Tags["a"] != "b" {
		t.Errorf("%+v", got)
	}
	got = decode[MessageResponse](t, b.do("GET", "/admin/v1/messages/"+content.ID.String()+"?header=1", ""))
	if want := "From: a@example.com\nSubject: S\nX-A: b\n(attachment \"f\", a/b, 2 bytes)\n"; got.Header != want {
		t.Errorf("header %q", got.Header)
	}
	w := b.do("GET", "/admin/v1/messages/"+raw.ID.String()+"/body", "")
	if w.Code != 200 || w.Header().Get(headerKind) != "raw" || !strings.HasSuffix(w.Body.String(), "secret") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestBadRequests(t *testing.T) {
	b := setup(t)
	unknown := (&mail.IDs{}).New(time.Now()).String()
	for _, c := range []struct {
		method, path, body string
		status             int
		code, field        string
	}{
		{"GET", PathQueues + "?domian=x", "", 400, wire.CodeInvalidValue, "domian"},
		{"GET", PathQueues + "?tenant=[", "", 400, wire.CodeInvalidValue, ""},
		{"GET", PathQueues + "?tenant=a&tenant=b", "", 400, wire.CodeInvalidValue, "tenant"},
		{"GET", PathMessages + "?limit=0", "", 400, wire.CodeInvalidValue, "limit"},
		{"GET", PathMessages + "?limit=x", "", 400, wire.CodeInvalidValue, "limit"},
		{"GET", PathMessages + "?cursor=-1", "", 400, wire.CodeInvalidValue, "cursor"},
		{"GET", "/admin/v1/messages/x", "", 404, wire.CodeNotFound, "id"},
		{"GET", "/admin/v1/messages/" + unknown, "", 404, wire.CodeNotFound, "id"},
		{"GET", "/admin/v1/messages/" + unknown + "?header=maybe", "", 400, wire.CodeInvalidValue, "header"},
		{"GET", "/admin/v1/messages/" + unknown + "/body", "", 404, wire.CodeNotFound, "id"},
		{"GET", "/admin/v1/messages/" + unknown + "/body?x=1", "", 400, wire.CodeInvalidValue, "x"},
		{"POST", PathBounce, `{"filter":{}}`, 422, CodeFilter, "filter"},
		{"POST", PathBounce, `{}`, 422, CodeFilter, "filter"},
		{"POST", PathRetry, `{"filter":{}}`, 422, CodeFilter, "filter"},
		{"POST", PathExport, `{"filter":{}}`, 422, CodeFilter, "filter"},
		{"POST", PathResume, `{"filter":{}}`, 422, CodeFilter, "filter"},
		{"POST", PathSuspensions, `{"filter":{}}`, 422, CodeFilter, "filter"},
		{"POST", PathBounce, `{"filter":{"all":true,"domain":"x"}}`, 422, CodeFilter, "filter"},
		{"POST", PathBounce, `{"filter":{"domain":"[x"}}`, 422, CodeFilter, "filter"},
		{"POST", PathBounce, `{"filter":{"domain":"a\nb"}}`, 422, CodeFilter, "filter"},
		{"POST", PathBounce, `{"filter":{"domain":"x"},"reason":"a\r\nb"}`, 422, CodeLineBreak, "reason"},
		{"POST", PathBounce, `{"filter":{"domain":"x"},"reason":"` + strings.Repeat("x", 501) + `"}`, 422, CodeTooLong, "reason"},
		{"POST", PathSuspensions, `{"filter":{"recipient":"a@b"}}`, 422, CodeFilter, "filter"},
		{"POST", PathSuspensions, `{"filter":{"message":"` + unknown + `"}}`, 422, CodeFilter, "filter"},
		{"POST", PathSuspensions, `{"filter":{"domain":"x"},"until":"2001-01-01T00:00:00Z"}`, 422, wire.CodeInvalidValue, "until"},
		{"POST", PathSuspensions, `{"filter":{"domain":"x"},"reason":"a\nb"}`, 422, CodeLineBreak, "reason"},
		{"POST", PathBounce, `{"filter":{"domian":"x"}}`, 400, wire.CodeUnknownField, "domian"},
		{"POST", PathBounce, `{"filter":{"message":"x"}}`, 400, wire.CodeInvalidValue, "message"},
		{"POST", PathBounce, `{`, 400, wire.CodeInvalidJSON, ""},
		{"POST", PathBounce, strings.Repeat(" ", 2<<20), 413, wire.CodeTooLarge, ""},
		{"PUT", PathLogLevel, `{"level":"loud"}`, 422, wire.CodeInvalidValue, "level"},
		{"DELETE", "/admin/v1/suspensions/x", "", 404, wire.CodeNotFound, "id"},
		{"GET", PathBounce, "", 405, wire.CodeMethodNotAllowed, ""},
		{"GET", "/admin/v2", "", 404, wire.CodeNotFound, ""},
	} {
		w := b.do(c.method, c.path, c.body)
		if e := errorsOf(t, w)[0]; w.Code != c.status || e.Code != c.code || e.Field != c.field {
			t.Errorf("%s %s %.80s: %d %+v", c.method, c.path, c.body, w.Code, e)
		}
	}
	if len(b.engine.calls) != 0 {
		t.Errorf("the engine was asked: %v", b.engine.calls)
	}
}

func TestAuthorization(t *testing.T) {
	b := setup(t, func(o *Options) { o.AuthFailures = 2 })
	for i, want := range []int{401, 401, 429} {
		if w := b.do("GET", PathStats, "", "Authorization", "Bearer wrong"); w.Code != want {
			t.Errorf("try %d: %d", i, w.Code)
		}
	}
	if w := b.do("GET", PathStats, ""); w.Code != 200 {
		t.Errorf("the right token: %d", w.Code)
	}
	o := options()
	o.Tokens = nil
	if err := b.server.Reload(o); err != nil {
		t.Fatal(err)
	}
	if w := b.do("GET", PathStats, ""); w.Code == 200 {
		t.Error("a removed token still works")
	}
}

func TestActions(t *testing.T) {
	b := setup(t)
	b.do("POST", PathSuspensions, `{"filter":{"domain":"a.example","tenant":"t"},"reason":"why"}`)
	b.do("POST", PathSuspensions, `{"filter":{"domain":"b.example"},"until":"2999-01-01T00:00:00Z"}`)
	b.do("POST", PathSuspensions, `{"filter":{"all":true}}`)
	if got := decode[SuspensionsResponse](t, b.do("GET", PathSuspensions, "")); len(got.Suspensions) != 3 || got.Suspensions[0].Reason != "why" || got.Suspensions[1].Until.Year() != 2999 {
		t.Errorf("%+v", got)
	}
	if got := decode[CountResponse](t, b.do("POST", PathResume, `{"filter":{"domain":"a.example"}}`)); got.Count != 1 {
		t.Errorf("resumed %d", got.Count)
	}
	if w := b.do("DELETE", "/admin/v1/suspensions/1", ""); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if got := decode[CountResponse](t, b.do("POST", PathResume, `{"filter":{"all":true}}`)); got.Count != 1 || len(b.engine.suspensions) != 0 {
		t.Errorf("resumed %d", got.Count)
	}
	if got := decode[CountResponse](t, b.do("POST", PathBounce, `{"filter":{"domain":"x"},"reason":"gone"}`)); got.Count != 5 {
		t.Errorf("%+v", got)
	}
	decode[CountResponse](t, b.do("POST", PathRetry, `{"filter":{"all":true}}`))
	if want := []string{`bounce x false "gone"`, `retry  true`}; !slices.Equal(b.engine.calls, want) {
		t.Errorf("calls %q", b.engine.calls)
	}
	if !decode[Stats](t, b.do("POST", PathDrain, "")).Draining || decode[Stats](t, b.do("POST", PathUndrain, "")).Draining {
		t.Error("drain does not switch")
	}
	if decode[LogLevel](t, b.do("PUT", PathLogLevel, `{"level":"debug"}`)).Level != "debug" || b.level.Level() != slog.LevelDebug {
		t.Error("log level does not change")
	}
	b.engine.err = errors.New("line 3: unknown key")
	if w := b.do("POST", PathReload, ""); w.Code != 422 || errorsOf(t, w)[0].Code != CodeConfig || !strings.Contains(w.Body.String(), "line 3") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestImport(t *testing.T) {
	b := setup(t)
	send := func(body string, header ...string) *httptest.ResponseRecorder {
		return b.do("POST", PathImport, body, append([]string{"Content-Type", typeLines}, header...)...)
	}
	if got := decode[ImportResponse](t, send("a\nknown\nb")); got != (ImportResponse{Stored: 2, Known: 1}) {
		t.Errorf("%+v", got)
	}
	zipped, _ := wire.Compress([]byte("a\nb\nc"))
	if got := decode[ImportResponse](t, send(string(zipped), "Content-Encoding", "gzip")); got.Stored != 3 {
		t.Errorf("%+v", got)
	}
	if w := send("a\nbad"); w.Code != 422 || errorsOf(t, w)[0].Code != CodeImport || !strings.Contains(w.Body.String(), "stored 1 before") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := send("no gzip", "Content-Encoding", "gzip"); w.Code != 422 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := send("a", "Content-Encoding", "br"); w.Code != 415 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := b.do("POST", PathImport, "a"); w.Code != 415 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	b.engine.err = mail.ErrQueueFull
	if w := send("a"); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestClient runs every call of the client against a listening server, by TCP with a token and by a Unix socket without.
func TestClient(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	b := setup(t, func(o *Options) { o.Listen = []string{"127.0.0.1:0", "unix:" + socket} })
	if err := b.server.Start(); err != nil {
		t.Fatal(err)
	}
	for _, o := range []ClientOptions{{URL: "http://" + b.server.Addrs()[0].String(), Key: token}, {URL: "unix:" + socket}} {
		c, err := NewClient(o)
		if err != nil {
			t.Fatal(err)
		}
		exercise(t, b, c)
		c.Close()
	}
	c, _ := NewClient(ClientOptions{URL: "http://" + b.server.Addrs()[0].String(), Attempts: 1})
	var p *wire.Problem
	if _, err := c.Stats(context.Background()); !errors.As(err, &p) || p.Status != http.StatusUnauthorized {
		t.Errorf("without a token: %v", err)
	}
	c.Close()
	if err := b.server.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(socket); err == nil {
		t.Errorf("the socket is left: %v", info)
	}
}

func exercise(t *testing.T, b *bundle, c *Client) {
	t.Helper()
	ctx := context.Background()
	all, id := Filter{All: true}, b.engine.waiting[0].Message.ID
	var body, lines strings.Builder
	check := func(what string, ok bool, err error) {
		t.Helper()
		if err != nil || !ok {
			t.Errorf("%s: ok %v, %v", what, ok, err)
		}
	}
	queues, err := c.Queues(ctx, Filter{Tenant: "acme"}, Page{Limit: 2})
	check("queues", err == nil && len(queues.Queues) == 2 && queues.Total == 4, err)
	list, err := c.Messages(ctx, Filter{}, Page{Limit: 3, State: "queued"})
	check("messages", err == nil && len(list.Messages) == 3, err)
	one, err := c.Message(ctx, id, true)
	check("message", err == nil && one.Header != "", err)
	kind, err := c.Body(ctx, id, &body)
	check("body", kind == "raw" && strings.HasSuffix(body.String(), "secret"), err)
	made, err := c.Suspend(ctx, Filter{Domain: "x"}, time.Now().Add(time.Hour), "r")
	check("suspend", err == nil && made.Filter.Domain == "x", err)
	suspensions, err := c.Suspensions(ctx)
	check("suspensions", len(suspensions) == 1, err)
	check("resume", true, c.Resume(ctx, made.ID))
	_, _ = c.Suspend(ctx, Filter{Domain: "x"}, time.Time{}, "")
	n, err := c.ResumeMatching(ctx, all)
	check("resume matching", n == 1, err)
	n, err = c.Bounce(ctx, all, "r")
	check("bounce", n == 5, err)
	n, err = c.Retry(ctx, Filter{Message: id})
	check("retry", n == 5, err)
	n, err = c.Export(ctx, all, &lines)
	check("export", n == 5 && strings.Count(lines.String(), "\n") == 5, err)
	imported, err := c.Import(ctx, strings.NewReader("a\nknown\n"))
	check("import", err == nil && imported.Stored == 1 && imported.Known == 1, err)
	stats, err := c.Drain(ctx, true)
	check("drain", err == nil && stats.Draining, err)
	stats, err = c.Drain(ctx, false)
	check("undrain", err == nil && !stats.Draining, err)
	_, err = c.Stats(ctx)
	check("stats", true, err)
	info, err := c.Reload(ctx)
	check("reload", err == nil && info.ConfigDigest == "abc", err)
	_, err = c.Info(ctx)
	check("info", true, err)
	check("set log level", true, c.SetLogLevel(ctx, "warn"))
	level, err := c.LogLevel(ctx)
	check("log level", level == "warn", err)
	exerciseEgress(t, b, c)
	exercisePipeline(t, c)
	brokenExport(t, b, c)
}

// brokenExport: an export that fails on its way is never taken for a whole one.
func brokenExport(t *testing.T, b *bundle, c *Client) {
	t.Helper()
	b.engine.err = errors.New("disk")
	defer func() { b.engine.err, b.engine.breakAfter = nil, 0 }()
	b.engine.breakAfter = 3
	var lines strings.Builder
	if n, err := c.Export(context.Background(), Filter{All: true}, &lines); err == nil {
		t.Errorf("a broken export gave %d", n)
	}
	b.engine.breakAfter = 0
	var p *wire.Problem
	if _, err := c.Export(context.Background(), Filter{All: true}, &lines); !errors.As(err, &p) || p.Status != 500 {
		t.Errorf("an export that fails at once: %v", err)
	}
}

func TestCovers(t *testing.T) {
	have := Filter{Tenant: "t", Domain: "d"}
	for _, c := range []struct {
		want Filter
		ok   bool
	}{{Filter{All: true}, true}, {Filter{Tenant: "t"}, true}, {Filter{Tenant: "t", Domain: "d"}, true}, {Filter{Tenant: "u"}, false},
		{Filter{Domain: "d", Stream: "s"}, false}, {Filter{Message: mail.ID{1}}, false}} {
		if covers(have, c.want) != c.ok {
			t.Errorf("%+v", c.want)
		}
	}
}

func TestOptions(t *testing.T) {
	for key, change := range map[string]func(*Options){
		"listen":        func(o *Options) { o.Listen = []string{"x"} },
		"tokens.sha256": func(o *Options) { o.Tokens[0].SHA256 = "x" },
		"tokens.name":   func(o *Options) { o.Tokens[0].Name = "" },
		"max_request":   func(o *Options) { o.MaxRequest = 0 },
	} {
		o := options()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: got %v", key, err)
		}
	}
	if err := DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
}
