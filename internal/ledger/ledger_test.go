package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sampleAck(n int64) Ack {
	return Ack{At: Nanos(1000 + n), Began: Nanos(n), Key: "run-1", ID: "01890a5d-ac96-774b-bcce-b302099a8057",
		Recipient: "u1@d0.test", Sum: Sum{1, 2, 3}, Size: 10240}
}

func sampleDelivery(n int64) Delivery {
	return Delivery{At: Nanos(2000 + n), Key: "run-1", Recipient: "u1@d0.test", ReversePath: "bounce@s.test",
		Peer: "127.0.0.1:4711", Provider: "big", Sum: Sum{1, 2, 3}, Size: 10500}
}

func TestBookRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.ledger")
	b, err := NewBook(BookOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	const n = 20000 // several pages
	for i := range int64(n) {
		a, d := sampleAck(i), sampleDelivery(i)
		b.AddAck(&a)
		b.AddDelivery(&d)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	acks, deliveries, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(acks) != n || len(deliveries) != n || b.Len() != 2*n {
		t.Fatalf("file has %d acks and %d deliveries, book counts %d", len(acks), len(deliveries), b.Len())
	}
	if d := cmp.Diff(sampleAck(n-1), acks[n-1]); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(sampleDelivery(n-1), deliveries[n-1]); d != "" {
		t.Error(d)
	}
	if !slices.Equal(acks, b.Acks()) {
		t.Error("memory differs from file")
	}
	var out bytes.Buffer
	if _, err := b.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	file, _ := os.ReadFile(path)
	if !bytes.Equal(out.Bytes(), file) {
		t.Error("WriteTo differs from the file")
	}
}

func TestBookForgetAndReset(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.ledger")
	b, err := NewBook(BookOptions{Path: path, Forget: true})
	if err != nil {
		t.Fatal(err)
	}
	a := sampleAck(1)
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	b.AddAck(&a)
	if err := b.Reset(); err != nil {
		t.Fatal(err)
	}
	for i := range int64(30000) {
		a := sampleAck(i)
		b.AddAck(&a)
	}
	if len(b.pages) != 1 {
		t.Errorf("%d pages kept, want 1", len(b.pages))
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	acks, _, err := ReadFile(path)
	if err != nil || len(acks) != 30000 || acks[29999].Began != 29999 {
		t.Fatalf("%d acks, %v", len(acks), err)
	}
}

func TestBookConcurrent(t *testing.T) {
	b, _ := NewBook(BookOptions{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range int64(500) {
				d := sampleDelivery(i)
				b.AddDelivery(&d)
				if i%100 == 0 {
					b.Deliveries()
				}
			}
		})
	}
	wg.Wait()
	if got := len(b.Deliveries()); got != 2000 {
		t.Errorf("%d deliveries, want 2000", got)
	}
}

func TestLongStringsAreCut(t *testing.T) {
	d := sampleDelivery(0)
	d.Key = strings.Repeat("k", 100000)
	file := append([]byte(Magic), AppendDelivery(nil, &d)...)
	_, got, err := Read(bytes.NewReader(file))
	if err != nil || len(got) != 1 || len(got[0].Key) != maxString {
		t.Fatalf("%d records, %v", len(got), err)
	}
}

func TestReaderDamage(t *testing.T) {
	a := sampleAck(0)
	one := append([]byte(Magic), AppendAck(nil, &a)...)
	whole := AppendAck(bytes.Clone(one), &a)
	for cut := range len(whole) {
		acks, _, err := Read(bytes.NewReader(whole[:cut]))
		switch {
		case cut == 0 || cut == len(Magic) || cut == len(one):
			if err != nil {
				t.Errorf("cut at %d: %v, want none", cut, err)
			}
		case !errors.Is(err, ErrTorn):
			t.Errorf("cut at %d: %v, want ErrTorn", cut, err)
		}
		if want := 0; cut >= len(one) {
			want = 1
			if len(acks) != want {
				t.Errorf("cut at %d: %d acks before the damage, want %d", cut, len(acks), want)
			}
		}
	}
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x40
		if acks, _, err := Read(bytes.NewReader(bad)); err == nil && len(acks) == 2 {
			t.Errorf("change of byte %d is not noticed", i)
		}
	}
}

func TestReaderSkipsUnknownKinds(t *testing.T) {
	a := sampleAck(0)
	file := []byte(Magic)
	file, start := openFrame(file, Kind(99))
	file = closeFrame(append(file, "from the future"...), start)
	file = AppendAck(file, &a)
	acks, _, err := Read(bytes.NewReader(file))
	if err != nil || len(acks) != 1 {
		t.Fatalf("%d acks, %v", len(acks), err)
	}
}

func TestNDJSON(t *testing.T) {
	a, d := sampleAck(0), sampleDelivery(0)
	file := AppendDelivery(AppendAck([]byte(Magic), &a), &d)
	var out strings.Builder
	if err := WriteNDJSON(&out, bytes.NewReader(file)); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"kind":"ack"`) || !strings.Contains(lines[1], `"kind":"delivery"`) {
		t.Fatal(out.String())
	}
	var back Delivery
	if err := json.Unmarshal([]byte(lines[1]), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, back); diff != "" {
		t.Error(diff)
	}
}

func FuzzReader(f *testing.F) {
	a, d := sampleAck(0), sampleDelivery(0)
	f.Add([]byte(Magic))
	f.Add(AppendAck([]byte(Magic), &a))
	f.Add(AppendDelivery(AppendAck([]byte(Magic), &a), &d))
	f.Add([]byte(Magic + "\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, file []byte) {
		r := NewReader(bytes.NewReader(file))
		for {
			rec, err := r.Next()
			if err != nil {
				if err != io.EOF && !errors.Is(err, ErrTorn) && !errors.Is(err, ErrCorrupt) {
					t.Fatalf("unexpected kind of error: %v", err)
				}
				return
			}
			var again []byte
			if rec.Kind == KindAck {
				again = AppendAck([]byte(Magic), &rec.Ack)
			} else {
				again = AppendDelivery([]byte(Magic), &rec.Delivery)
			}
			if _, _, err := Read(bytes.NewReader(again)); err != nil {
				t.Fatalf("a record that was read cannot be written: %v", err)
			}
		}
	})
}
