package smtpd

import (
	"context"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/accept"
)

// nowhere is a store whose large files keep nothing.
type nowhere struct{ store }

type nowhereFile struct{ io.Writer }

func (nowhereFile) Path() string  { return "somewhere" }
func (nowhereFile) Commit() error { return nil }
func (nowhereFile) Abort()        {}

func (n *nowhere) Large(context.Context) (accept.LargeFile, error) {
	return nowhereFile{io.Discard}, nil
}

// TestManyUploads holds the memory of 200 clients in the middle of large
// messages of unannounced size far below what they have sent.
func TestManyUploads(t *testing.T) {
	const clients = 200
	n := &nowhere{}
	door, err := accept.New(accept.DefaultOptions(), accept.Deps{Queue: n, IDs: &mail.IDs{}, Hostname: "mx.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := New(testOptions(nil), Deps{Door: door, Hostname: "mx.example.net", Passwords: plain{}})
	if err != nil {
		t.Fatal(err)
	}
	block := strings.Repeat(strings.Repeat("x", 76)+"\r\n", 1000)
	var half, end sync.WaitGroup
	half.Add(clients)
	goOn := make(chan struct{})
	for i := range clients {
		c := connect(t, srv, 0, netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}).String())
		end.Go(func() {
			c.expect("220")
			c.do("EHLO client.example", "250")
			c.do("MAIL FROM:<a@b>", "250")
			c.do("RCPT TO:<x@d.example>", "250")
			c.do("DATA", "354")
			c.send("A: 1\r\n\r\n")
			for range 20 { // 1.5 MB: beyond what stays in memory
				c.send(block)
			}
			half.Done()
			<-goOn
			c.send(block + ".\r\n")
			c.expect("250 2.0.0 Ok: queued as")
		})
	}
	half.Wait()
	var m runtime.MemStats
	runtime.ReadMemStats(&m) // before a collection: what the process really took
	if m.HeapSys > 400<<20 {
		t.Errorf("%d uploads took %d MiB of heap", clients, m.HeapSys>>20)
	}
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 128<<20 {
		t.Errorf("%d uploads hold %d MiB of heap", clients, m.HeapAlloc>>20)
	}
	t.Logf("%d MiB taken, %d MiB held", m.HeapSys>>20, m.HeapAlloc>>20)
	close(goOn)
	end.Wait()
	if len(n.batches) != clients {
		t.Errorf("%d accepted", len(n.batches))
	}
}
