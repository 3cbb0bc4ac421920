package passwd

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func TestHash(t *testing.T) {
	h, err := Hash("open sesame")
	if err != nil || !strings.HasPrefix(h, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatal(h, err)
	}
	again, _ := Hash("open sesame")
	if again == h {
		t.Error("two hashes have the same salt")
	}
	for password, want := range map[string]bool{"open sesame": true, "Open sesame": false, "": false, strings.Repeat("x", 5000): false} {
		if got, err := Verify(h, password); got != want || err != nil {
			t.Errorf("%q: %v, %v", password, got, err)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", MaxLength+1)} {
		if _, err := Hash(bad); err == nil {
			t.Errorf("hashed a password of %d bytes", len(bad))
		}
	}
}

func TestForeignHashes(t *testing.T) {
	// made by the reference implementation: echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 32
	const reference = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	if ok, err := Verify(reference, "password"); !ok || err != nil {
		t.Error("reference hash:", ok, err)
	}
	b, _ := bcrypt.GenerateFromPassword([]byte("pw"), bcrypt.MinCost)
	for _, prefix := range []string{"$2a$", "$2b$", "$2y$"} {
		h := prefix + string(b[4:])
		if ok, err := Verify(h, "pw"); !ok || err != nil {
			t.Error(h, ok, err)
		}
		if ok, _ := Verify(h, "px"); ok {
			t.Error(h, "took a wrong password")
		}
	}
}

var badHashes = []string{
	"", "plain", "{SHA}abc", "$1$salt$hash", "$2b$", "$2b$99$xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
	"$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
	"$argon2id$v=16$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
	"$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
	"$argon2id$v=19$m=65536,t=0,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
	"$argon2id$v=19$m=65536,t=2,p=0$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
	"$argon2id$v=19$m=65536,t=2,p=1x$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
	"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$",
	"$argon2id$v=19$m=65536,t=2,p=1$!$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
}

func TestBadHashes(t *testing.T) {
	for _, h := range badHashes {
		if err := Check(h); !errors.Is(err, ErrFormat) {
			t.Errorf("%q passed: %v", h, err)
		}
		if ok, err := Verify(h, ""); ok || err == nil {
			t.Errorf("%q verified", h)
		}
	}
}

// counter is a fake verification that counts and can be held up.
type counter struct {
	calls, now, most atomic.Int64
	gate             chan struct{}
}

func (c *counter) verify(hash, password string) (bool, error) {
	c.calls.Add(1)
	if n := c.now.Add(1); n > c.most.Load() {
		c.most.Store(n)
	}
	defer c.now.Add(-1)
	if c.gate != nil {
		<-c.gate
	}
	return hash == "hash of "+password, nil
}

func TestVerifierRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counter{}
		v := NewVerifier(VerifierOptions{TTL: time.Minute, Entries: 2})
		v.verify = c.verify
		ask := func(user, hash, password string, want bool, calls int64) {
			t.Helper()
			if ok, err := v.Verify(t.Context(), user, hash, password); ok != want || err != nil || c.calls.Load() != calls {
				t.Fatalf("%s/%s: %v, %v after %d calls, want %v after %d", user, password, ok, err, c.calls.Load(), want, calls)
			}
		}
		ask("ann", "hash of pw", "pw", true, 1)
		ask("ann", "hash of pw", "pw", true, 1)
		ask("ann", "hash of pw", "px", false, 2)
		ask("ann", "hash of pw", "px", false, 3) // wrong ones are not remembered
		ask("bob", "hash of pw", "pw", true, 4)
		ask("ann", "hash of new", "pw", false, 5) // a changed hash counts at once
		time.Sleep(time.Minute)
		ask("ann", "hash of pw", "pw", true, 6)
		ask("cyd", "hash of pw", "pw", true, 7)
		ask("dan", "hash of pw", "pw", true, 8)
		if len(v.right) > 2 {
			t.Errorf("remembers %d", len(v.right))
		}
	})
}

func TestUnknownUserTakesAsLong(t *testing.T) {
	c := &counter{}
	v := NewVerifier(VerifierOptions{})
	v.verify = func(hash, password string) (bool, error) {
		_, _ = c.verify(hash, password)
		return true, Check(hash) // even a match would not let an unknown user in
	}
	if ok, err := v.Verify(context.Background(), "nobody", "", "x"); ok || err != nil || c.calls.Load() != 1 {
		t.Errorf("%v, %v after %d calls", ok, err, c.calls.Load())
	}
}

func TestVerifierIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counter{gate: make(chan struct{})}
		v := NewVerifier(VerifierOptions{Concurrent: 2, Waiting: 10})
		v.verify = c.verify
		var busy, wrong atomic.Int64
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				ok, err := v.Verify(t.Context(), "ann", "hash of pw", strings.Repeat("x", i+1))
				switch {
				case errors.Is(err, ErrBusy):
					busy.Add(1)
				case err == nil && !ok:
					wrong.Add(1)
				}
			})
		}
		synctest.Wait()
		if busy.Load() != 18 || c.now.Load() != 2 {
			t.Errorf("%d busy, %d at work", busy.Load(), c.now.Load())
		}
		close(c.gate)
		wg.Wait()
		if wrong.Load() != 12 || c.most.Load() != 2 {
			t.Errorf("%d wrong, %d at once", wrong.Load(), c.most.Load())
		}
	})
}

func TestSameLoginIsOneComputation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counter{gate: make(chan struct{})}
		v := NewVerifier(VerifierOptions{})
		v.verify = c.verify
		gone, cancel := context.WithCancel(t.Context())
		answers := make(chan error, 20)
		for i := range 20 {
			ctx := t.Context()
			if i == 0 {
				ctx = gone
			}
			go func() {
				ok, err := v.Verify(ctx, "ann", "hash of pw", "pw")
				if err == nil && !ok {
					err = errors.New("refused")
				}
				answers <- err
			}()
		}
		synctest.Wait()
		cancel()
		if err := <-answers; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		close(c.gate)
		for range 19 {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		if c.calls.Load() != 1 {
			t.Errorf("%d computations", c.calls.Load())
		}
	})
}

func FuzzCheck(f *testing.F) {
	for _, h := range badHashes {
		f.Add(h)
	}
	f.Add("$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Fuzz(func(t *testing.T, h string) {
		if err := Check(h); err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
	})
}
