package egress

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/backoff"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// benchQueues is how many ready queues stand at the gate.
const benchQueues = 100_000

const providerLimit = `
[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 10
message_rate = "100/s"
`

const siteLimits = `
[default]
connections = 10
connect_rate = "100/min"
message_rate = "100/s"
`

func heapBytes() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func benchDemand(i int, provider string, take func(queue.Lease)) queue.Demand {
	site := fmt.Sprintf("mx%d.p.test;tls=may", i)
	return queue.Demand{Key: "default " + site, Pool: "default", Site: site, Provider: provider, N: 1, Priority: mail.Normal, Flow: "t\x00s", Flows: 1, Take: take}
}

// BenchmarkSeek is one ready queue that comes to the gate, where many stand, and what it costs in memory.
func BenchmarkSeek(b *testing.B) {
	for _, c := range []struct{ name, provider, rules string }{
		{"provider", "p", providerLimit}, {"sites", "", siteLimits}, {"none", "", ""}} {
		for _, n := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/sources=%d", c.name, n), func(b *testing.B) {
				w := newWorld(b, sources([]string{"a", "b", "c", "d"}[:n]...), c.rules)
				defer w.g.Stop()
				var given atomic.Int64
				demands := make([]queue.Demand, benchQueues)
				for i := range demands {
					demands[i] = benchDemand(i, c.provider, func(queue.Lease) { given.Add(1) })
				}
				before := heapBytes()
				start := time.Now()
				for i := range demands {
					given.Add(int64(len(w.g.Seek(demands[i]))))
				}
				each := time.Since(start) / benchQueues
				time.Sleep(2 * time.Second) // sources are asked that were not asked at first
				w.g.mu.Lock()
				asked := w.g.asked
				w.g.mu.Unlock()
				bytes := float64(heapBytes()-before) / benchQueues
				runtime.KeepAlive(demands)
				b.ResetTimer()
				for i := range b.N { // more has become ready
					d := demands[i%benchQueues]
					d.N = 2 + i%2
					_ = w.g.Seek(d)
				}
				b.ReportMetric(float64(each.Nanoseconds()), "ns/seek")
				b.ReportMetric(bytes, "B/queue")
				b.ReportMetric(float64(given.Load()), "leases")
				b.ReportMetric(float64(asked)/benchQueues, "requests/queue")
			})
		}
	}
}

// BenchmarkTurn is a connection that ends while many ready queues wait for one: the next one gets it.
func BenchmarkTurn(b *testing.B) {
	w := newWorld(b, sources("a"), "[[provider]]\nname = \"p\"\nmx_suffix = [\".p.test\"]\nconnections = 10\n")
	defer w.g.Stop()
	leases := make(chan queue.Lease, 1000)
	for i := range benchQueues {
		for _, l := range w.g.Seek(benchDemand(i, "p", func(l queue.Lease) { leases <- l })) {
			leases <- l
		}
	}
	b.ResetTimer()
	for i := range b.N {
		l := (<-leases).(*lease)
		l.current().Opened()
		l.Close(true)
		if i >= benchQueues/2 { // it comes again
			_ = w.g.Seek(benchDemand(i%benchQueues, "p", func(l queue.Lease) { leases <- l }))
		}
	}
}

// BenchmarkLook is what time does to ready queues for which no source can be used.
func BenchmarkLook(b *testing.B) {
	w := newWorld(b, sources("a"), siteLimits)
	defer w.g.Stop()
	w.g.pools.SetHealth("a", false, "bench")
	for i := range benchQueues {
		_ = w.g.Seek(benchDemand(i, "", func(queue.Lease) {}))
	}
	b.ResetTimer()
	for range b.N {
		w.g.look(time.Now())
		w.g.expire(time.Now())
	}
}

// BenchmarkRefresh is an order about another provider while many wait.
func BenchmarkRefresh(b *testing.B) {
	w := newWorld(b, sources("a"), siteLimits)
	defer w.g.Stop()
	w.g.pools.SetHealth("a", false, "bench")
	for i := range benchQueues {
		_ = w.g.Seek(benchDemand(i, "", func(queue.Lease) {}))
	}
	c := change{}
	c.orders = append(c.orders, w.g.Orders()...)
	c.orders = append(c.orders, orderAbout("other"))
	b.ResetTimer()
	for range b.N {
		w.g.refresh(&c)
	}
}

func orderAbout(provider string) backoff.Order {
	return backoff.Order{Action: rules.Suspend, Scope: throttle.Key{Source: "a", Provider: provider}}
}
