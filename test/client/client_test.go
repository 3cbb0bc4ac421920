//go:build client

// Package client runs the public JavaScript client of the API, unmodified, against the pipeline:
//
//	go test -tags client ./test/client
//
// Against a running program: GODWIT_URL=http://127.0.0.1:8028 GODWIT_KEY=… go test -tags client ./test/client
package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/api"
	"github.com/godwit-mta/godwit/pipeline/api/apitest"
	"github.com/godwit-mta/godwit/pipeline/api/receipts"
)

// version of the client that package.json names.
const version = "23.0.0"

func TestClient(t *testing.T) {
	dir := install(t)
	url, key := os.Getenv("GODWIT_URL"), os.Getenv("GODWIT_KEY")
	if url == "" {
		url, key = serve(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	node := exec.CommandContext(ctx, "node", filepath.Join(dir, "client.js"))
	node.Env = append(os.Environ(), "GODWIT_URL="+url, "GODWIT_KEY="+key)
	out, err := node.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// install copies script and package.json to a directory and installs the client there. GODWIT_NODE_MODULES may
// name a node_modules directory that has it.
func install(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed: the JavaScript client cannot be run", program)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "client.js"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have := os.Getenv("GODWIT_NODE_MODULES"); have != "" {
		if err := os.Symlink(have, filepath.Join(dir, "node_modules")); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--package-lock=false")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Skipf("npm cannot install klaviyo-api %s: %v\n%s", version, err, out)
	}
	return dir
}

// serve starts the API over a world in memory.
func serve(t *testing.T) (url, key string) {
	t.Helper()
	world, err := apitest.New(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	store, err := receipts.Open(t.TempDir(), receipts.DefaultOptions(), nil)
	if err != nil {
		t.Fatal(err)
	}
	key = "secret"
	hash := sha256.Sum256([]byte(key))
	o := api.DefaultOptions()
	o.Keys = []api.Key{{Name: "client", Tenant: "acme", SHA256: hex.EncodeToString(hash[:])}}
	s, err := api.New(o, api.Deps{Door: world.Door, Identities: world, Profiles: world, Counts: apitest.Counts{World: world}, Waiter: world, Receipts: store})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(ln)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := cmp.Or(s.Stop(ctx), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String(), key
}
