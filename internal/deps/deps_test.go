package deps

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/godwit-mta/godwit/"

// layers lists, for each part of the tree, what it may import of the project.
// The longest prefix that matches a package counts. Tests may import more:
// only files that are built into the program are looked at.
var layers = map[string][]string{
	"cmd/":                       {"config", "mta", "mta/", "queue", "queue/", "bounce/", "proxy", "proxy/", "throttle", "throttle/", "pipeline", "pipeline/", "internal/"},
	"config":                     {"mta", "mta/", "queue", "bounce/", "proxy", "proxy/", "pipeline", "pipeline/", "internal/"},
	"mta":                        {"mta/", "queue", "bounce/", "proxy", "throttle/", "internal/"},
	"mta/smtp":                   {"internal/units"},
	"mta/smtpd":                  {"mta/smtp", "mta/accept", "internal/passwd", "internal/mail", "internal/units"},
	"mta/httpd":                  {"mta/accept", "mta/injectapi", "internal/"},
	"mta/injectapi":              {"internal/wire", "internal/mail"},
	"mta/adminapi":               {"internal/"},
	"mta/egress":                 {"queue", "proxy", "throttle", "throttle/", "internal/"},
	"mta/accept":                 {"internal/mail", "internal/units"},
	"mta/compose":                {"internal/mail", "internal/units"},
	"mta/deliver":                {"mta/dns", "internal/mail", "internal/units"},
	"mta/dkim":                   {"internal/units"},
	"mta/dns":                    {"internal/units"},
	"mta/dns/dnstest":            {},
	"mta/route":                  {"mta/dns", "internal/mail", "internal/units"},
	"queue":                      {"queue/spool", "internal/event", "internal/mail", "internal/seglog", "internal/units"},
	"queue/spool":                {"internal/event", "internal/faultfs", "internal/mail", "internal/seglog", "internal/units"},
	"throttle":                   {"internal/mail", "internal/units"},
	"throttle/grant":             {"throttle", "internal/mail", "internal/units"},
	"throttle/desk":              {"throttle", "internal/mail", "internal/units"},
	"throttle/providers":         {},
	"throttle/rules":             {"throttle", "throttle/providers", "internal/units"},
	"throttle/backoff":           {"throttle", "throttle/rules", "internal/mail", "internal/units"},
	"throttle/convert":           {"throttle/rules", "proxy", "internal/units"},
	"proxy":                      {"proxy/wire", "internal/mail", "internal/units"},
	"proxy/wire":                 {"internal/mail"},
	"proxy/server":               {"proxy/wire", "throttle", "internal/faultfs", "internal/mail", "internal/units"},
	"proxy/haproxy":              {"proxy", "internal/units"},
	"pipeline":                   {"pipeline/", "internal/"},
	"pipeline/fact":              {},
	"pipeline/jsonapi":           {"internal/openapi", "internal/wire"},
	"pipeline/identity":          {"pipeline/fact", "internal/keyed", "internal/stream", "internal/units", "internal/bloom", "internal/setcache"},
	"pipeline/customer/patch":    {},
	"pipeline/customer":          {"pipeline/customer/patch", "pipeline/fact", "internal/keyed", "internal/stream", "internal/units", "internal/bloom", "internal/setcache", "internal/meter"},
	"pipeline/account":           {"pipeline/fact", "internal/keyed", "internal/stream", "internal/units", "internal/bloom", "internal/meter"},
	"pipeline/ingest":            {"pipeline/fact", "pipeline/identity", "pipeline/jsonapi", "internal/"},
	"pipeline/ingest/":           {"pipeline/fact", "pipeline/identity", "pipeline/ingest", "pipeline/ingest/", "pipeline/jsonapi", "internal/"},
	"pipeline/api":               {"pipeline/", "internal/"},
	"pipeline/api/":              {"pipeline/", "internal/"},
	"pipeline/warehouse":         {"pipeline/customer/patch", "pipeline/fact", "internal/stream", "internal/units"},
	"pipeline/warehouse/keyset":  {"internal/faultfs"},
	"pipeline/warehouse/duckdb":  {"pipeline/customer/patch", "pipeline/fact", "pipeline/warehouse", "pipeline/warehouse/", "internal/stream", "internal/units", "internal/pace", "internal/meter", "internal/bloom"},
	"pipeline/erase":             {"pipeline/fact", "internal/faultfs", "internal/stream", "internal/units"},
	"pipeline/check":             {"pipeline/fact", "internal/stream"},
	"internal/stream":            {"internal/faultfs", "internal/mail", "internal/seglog", "internal/units", "internal/meter"},
	"pipeline/peer":              {"internal/keyed"},
	"internal/stream/streamtest": {"internal/stream"},
	"internal/bloom":             {},
	"internal/setcache":          {},
	"internal/pace":              {},
	"internal/meter":             {},
	"internal/keyed":             {"internal/stream", "internal/units", "internal/bloom", "internal/pace"},
	"internal/keyed/keyedtest":   {},
	"internal/quietdb":           {},
	"internal/crowd":             {"internal/units"},
	"internal/records":           {"internal/faultfs", "internal/meter"},
	"internal/cluster":           {"internal/records", "internal/meter"},
	"internal/watch":             {},
	"bounce/":                    {"internal/mail", "internal/units"},
	"internal/mail":              {},
	"internal/units":             {},
	"internal/faultfs":           {},
	"internal/trace":             {},
	"internal/debugz":            {},
	"internal/deps":              {},
	"internal/show":              {},
	"internal/passwd":            {},
	"internal/openapi":           {},
	"internal/seglog":            {"internal/faultfs", "internal/mail", "internal/units", "internal/meter"},
	"internal/event":             {"internal/faultfs", "internal/mail", "internal/seglog", "internal/units", "internal/meter"},
	"internal/ledger":            {"internal/mail"},
	"internal/sink":              {"internal/ledger", "internal/watch", "internal/mail", "internal/units"},
	"internal/load":              {"internal/ledger", "internal/mail", "internal/units"},
	"internal/render":            {"internal/units"},
	"internal/wire":              {"internal/openapi", "internal/units"},
	"test/":                      {"internal/"},
}

func TestImports(t *testing.T) {
	root := filepath.Join("..", "..")
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name == "testdata" || name != ".." && strings.HasPrefix(name, ".") && len(name) > 1 {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		seen++
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		checkFile(t, filepath.ToSlash(rel), path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 50 {
		t.Fatalf("only %d files found: the walk is broken", seen)
	}
}

func checkFile(t *testing.T, pkg, path string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Error(err)
		return
	}
	allowed, ok := allowedFor(pkg)
	if !ok {
		t.Errorf("%s: package %s is not in the import table of internal/deps", path, pkg)
		return
	}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Error(err)
			continue
		}
		of, ours := strings.CutPrefix(imported, module)
		if !ours || under(of, pkg+"/") {
			continue
		}
		if !slices.ContainsFunc(allowed, func(a string) bool { return under(of, a) }) {
			t.Errorf("%s: %s must not import %s", path, pkg, of)
		}
	}
}

// under reports whether pkg is prefix, or below it when prefix ends in a slash.
func under(pkg, prefix string) bool {
	return pkg == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(pkg, prefix)
}

// allowedFor finds the entry of the longest prefix.
func allowedFor(pkg string) (allowed []string, ok bool) {
	best := -1
	for prefix, list := range layers {
		if len(prefix) > best && (pkg == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(pkg+"/", prefix)) {
			best, allowed, ok = len(prefix), list, true
		}
	}
	return allowed, ok
}

// TestTableHasNoGhosts keeps the table honest: an entry must match something.
func TestTableHasNoGhosts(t *testing.T) {
	for prefix := range layers {
		pattern := filepath.Join("..", "..", filepath.FromSlash(strings.TrimSuffix(prefix, "/")))
		if m, err := filepath.Glob(pattern); err != nil || len(m) == 0 {
			t.Errorf("%s is in the table but not in the tree", prefix)
		}
	}
}
