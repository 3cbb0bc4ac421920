//go:build crash

package crash

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"testing"
	"time"
)

func keyHash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// TestKill: kill -9 at random moments under load.
func TestKill(t *testing.T) {
	random := random(t)
	r := newRig(t, filepath.Join(t.TempDir(), "spool"))
	r.mustStart()
	s := r.startSources(1500)
	for range rounds(t) {
		time.Sleep(time.Duration(300+random.IntN(1500)) * time.Millisecond)
		r.kill()
		r.mustStart()
	}
	acks := s.stop()
	r.awaitEmpty()
	r.terminate()
	r.reconcile(acks)
	r.checkEvents(acks)
}
