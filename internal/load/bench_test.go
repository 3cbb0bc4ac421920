package load

import (
	"testing"
)

// BenchmarkFloor injects straight into the simulator: what source and
// simulator cost together, without an engine between them.
func BenchmarkFloor(b *testing.B) {
	for _, bb := range []struct {
		name   string
		change func(*Options)
	}{
		{"pipelined", func(*Options) {}},
		{"lockstep", func(o *Options) { o.SMTP.Pipelining = false }},
		{"pipelined-nosums", func(o *Options) { o.NoSums = true }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s := startSink(b)
			r := run(b, s, func(o *Options) {
				bb.change(o)
				o.Count, o.Connections = int64(b.N), 20
			})
			b.ReportMetric(r.AcceptRate, "msg/s")
			b.ReportMetric(r.CPUPerMessage, "cpu-us/msg") // of both: they share this process
		})
	}
}
