package stream_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/stream/streamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	streamtest.Test(t, func(*testing.T) streamtest.Kit {
		return streamtest.Kit{Open: func() (stream.Log, error) { return stream.NewMemory(), nil }}
	})
}
