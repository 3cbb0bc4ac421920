package stream_test

import (
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/stream/streamtest"
)

// small makes segments that a few records fill.
func small() stream.Options {
	return stream.Options{KeepFor: stream.DefaultOptions().KeepFor, SegmentBytes: 16 << 10, Spares: 1, MaxAppend: 1 << 20}
}

func TestEmbedded(t *testing.T) {
	for name, o := range map[string]stream.Options{
		"memory": {KeepFor: small().KeepFor, SegmentBytes: 16 << 10, Spares: 1, MaxAppend: 1 << 20},
		"disk":   {KeepFor: small().KeepFor, SegmentBytes: 16 << 10, MaxAppend: 1 << 20, Recent: 1}, // keeps one batch in memory
	} {
		t.Run(name, func(t *testing.T) {
			streamtest.Test(t, func(t *testing.T) streamtest.Kit {
				dir := t.TempDir()
				return streamtest.Kit{
					Open:    func() (stream.Log, error) { return stream.Open(dir, o, stream.Deps{}) },
					Reopens: true, Holds: true,
					Drop: func(log stream.Log, _ stream.Topic) error {
						return log.(*stream.Embedded).Trim(time.Now().Add(o.KeepFor.D() + time.Hour))
					},
				}
			})
		})
	}
}
