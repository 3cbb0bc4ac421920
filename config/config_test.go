package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAnnotatedIsAFile: what `config defaults` prints can be read, and changes nothing.
func TestAnnotatedIsAFile(t *testing.T) {
	f, err := Parse("defaults.toml", []byte(Annotated()))
	if err != nil {
		t.Fatal(err)
	}
	if f.Queue.MaxMessages != Defaults().Queue.MaxMessages || f.Deliver != Defaults().Deliver {
		t.Error("the printed defaults are not the defaults")
	}
}

func TestEveryKeyIsDocumented(t *testing.T) {
	for _, line := range strings.Split(Reference(), "\n") {
		if strings.HasSuffix(line, "|  |") {
			t.Errorf("no meaning: %s", line)
		}
	}
}

// TestReferencePage: docs/CONFIG.md is what the code says. `make generate` writes it.
func TestReferencePage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "CONFIG.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != Reference() {
		t.Error("docs/CONFIG.md is not up to date: run make generate")
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		name, text, key string
		line            int
		hint            string
	}{
		{"unknown key", "hostname = 'a.test'\n\n[queue]\nmax_mesages = 5\n", "queue.max_mesages", 4, "queue.max_messages"},
		{"unknown table", "[que]\npath = 'x'\n", "que", 1, "queue"},
		{"unknown in a list", "[[smtp.listeners]]\naddress = ':25'\nadres = 'x'\n", "smtp.listeners.adres", 3, "smtp.listeners.address"},
		{"bad duration", "[queue]\nindex_every = 'soon'\n", "queue.index_every", 2, ""},
		{"bad type", "[queue]\nmax_messages = 'many'\n", "queue.max_messages", 2, ""},
		{"syntax", "[queue\n", "", 1, ""},
		{"out of range", "[queue]\n\nmax_ready = 1\n", "queue.max_ready", 3, ""},
		{"sizes that disagree", "[smtp]\nmax_size = '60MiB'\n", "smtp.max_size", 2, ""},
		{"peers without a cluster", "[pipeline]\npath = '/p'\nkafka.brokers = ['b:9092']\npeers.listen = '127.0.0.1:0'\n", "pipeline.peers.listen", 4, ""},
		{"peers without brokers", "[pipeline]\npath = '/p'\npeers.listen = '127.0.0.1:0'\n", "pipeline.peers.listen", 3, ""},
		{"nested", "[queue.retry]\nfactor = 0.5\n", "queue.retry.factor", 2, ""},
		{"in a list", "[[queue.retry_rules]]\ndomain = 'x'\nfirst = '1m'\nmax = '1h'\nfactor = 2.0\n[[queue.retry_rules]]\nfirst = '1m'\nmax = '1s'\nfactor = 2.0\n", "queue.retry_rules[1].max", 8, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f.toml", []byte(c.text))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			if e.Line != c.line || e.Column < 1 || c.key != "" && e.Key != c.key || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("got %q (key %q line %d column %d)", e.Error(), e.Key, e.Line, e.Column)
			}
			if !strings.HasPrefix(e.Error(), "f.toml:") {
				t.Errorf("no place in %q", e.Error())
			}
		})
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, err := Parse("f.toml", []byte("a = 1\nb = 2\n"))
	if err == nil || strings.Count(err.Error(), "unknown key") != 2 {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("[queue]\npath = 'x'\n")
	f.Add("[[smtp.listeners]]\naddress = ':25'\n")
	f.Fuzz(func(_ *testing.T, text string) { _, _ = Parse("f.toml", []byte(text)) })
}
