package ledger

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// books writes acks as "key recipient sum" and deliveries as "key recipient sum second".
func books(t *testing.T, acks, deliveries string) (a []Ack, d []Delivery) {
	t.Helper()
	for line := range strings.Lines(acks) {
		if f := strings.Fields(line); len(f) == 3 {
			a = append(a, Ack{Key: f[0], Recipient: f[1], Sum: sumOf(f[2])})
		}
	}
	for line := range strings.Lines(deliveries) {
		if f := strings.Fields(line); len(f) == 4 {
			s, err := time.ParseDuration(f[3])
			if err != nil {
				t.Fatal(err)
			}
			d = append(d, Delivery{Key: f[0], Recipient: f[1], Sum: sumOf(f[2]), At: Nanos(s)})
		}
	}
	return a, d
}

func sumOf(s string) (sum Sum) {
	if s != "-" {
		copy(sum[:], s)
	}
	return sum
}

func TestReconcile(t *testing.T) {
	tests := []struct{ name, acks, deliveries, want string }{
		{"nothing", "", "",
			"acked 0, delivered 0, settled 0, missing 0, altered 0, duplicates 0 (0 surplus deliveries), unknown 0"},
		{"all arrived", "k1 a@x s1\nk2 b@x s2", "k2 b@x s2 1s\nk1 a@x s1 2s",
			"acked 2, delivered 2, settled 0, missing 0, altered 0, duplicates 0 (0 surplus deliveries), unknown 0"},
		{"one missing", "k1 a@x s1\nk2 b@x s2", "k1 a@x s1 1s",
			"acked 2, delivered 1, settled 0, missing 1, altered 0, duplicates 0 (0 surplus deliveries), unknown 0"},
		{"altered body", "k1 a@x s1", "k1 a@x sX 1s",
			"acked 1, delivered 1, settled 0, missing 0, altered 1, duplicates 0 (0 surplus deliveries), unknown 0"},
		{"sum unknown at one side", "k1 a@x -\nk2 a@x s", "k1 a@x s1 1s\nk2 a@x - 1s",
			"acked 2, delivered 2, settled 0, missing 0, altered 0, duplicates 0 (0 surplus deliveries), unknown 0"},
		{"delivered three times, once altered", "k1 a@x s1", "k1 a@x s1 1s\nk1 a@x s1 2s\nk1 a@x s9 3s",
			"acked 1, delivered 1, settled 0, missing 0, altered 1, duplicates 1 (2 surplus deliveries), unknown 0"},
		{"never acknowledged", "k1 a@x s1", "k1 a@x s1 1s\nk9 a@x s9 2s\nk9 a@x s9 2s",
			"acked 1, delivered 1, settled 0, missing 0, altered 0, duplicates 0 (0 surplus deliveries), unknown 2"},
		{"same key, other recipient", "k1 a@x s1\nk1 b@x s1", "k1 a@x s1 1s\nk1 c@x s1 1s",
			"acked 2, delivered 1, settled 0, missing 1, altered 0, duplicates 0 (0 surplus deliveries), unknown 1"},
		{"Message-ID and case", "AB-1 A@X s1", "<ab-1@host.test> a@x s1 1s",
			"acked 1, delivered 1, settled 0, missing 0, altered 0, duplicates 0 (0 surplus deliveries), unknown 0"},
		{"acknowledged twice, delivered twice", "k1 a@x s1\nk1 a@x s1", "k1 a@x s1 1s\nk1 a@x s1 1s",
			"acked 2, delivered 2, settled 0, missing 0, altered 0, duplicates 0 (0 surplus deliveries), unknown 0"},
		{"acknowledged twice, delivered once", "k1 a@x s1\nk1 a@x s1", "k1 a@x s1 1s",
			"acked 2, delivered 1, settled 0, missing 1, altered 0, duplicates 0 (0 surplus deliveries), unknown 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Reconcile(books(t, tt.acks, tt.deliveries))
			if d := cmp.Diff(tt.want, r.String()); d != "" {
				t.Error(d)
			}
			if want := strings.Contains(tt.want, "missing 0, altered 0"); r.OK() != want {
				t.Errorf("OK() = %v", r.OK())
			}
		})
	}
}

func TestSettle(t *testing.T) {
	r := Reconcile(books(t, "k1 a@x s1\nk2 b@x s2\nk3 c@x s3", "k1 a@x s1 1s"))
	r.Settle(func(a Ack) bool { return a.Key == "k2" })
	if r.OK() || len(r.Settled) != 1 || len(r.Missing) != 1 || r.Missing[0].Key != "k3" {
		t.Error(r)
	}
}

func TestLate(t *testing.T) {
	tests := []struct {
		name, deliveries string
		cuts             []int64 // seconds
		late             int
	}{
		{"no duplicate", "k a@x s 5s", []int64{10}, 0},
		{"just before the cut", "k a@x s 9s\nk a@x s 12s", []int64{10}, 0},
		{"exactly at the limit", "k a@x s 8s\nk a@x s 12s", []int64{10}, 0},
		{"too early", "k a@x s 7s\nk a@x s 12s", []int64{10}, 1},
		{"after the cut", "k a@x s 11s\nk a@x s 12s", []int64{10}, 1},
		{"no cut at all", "k a@x s 9s\nk a@x s 12s", nil, 1},
		{"second of two cuts", "k a@x s 19s\nk a@x s 22s", []int64{10, 20}, 0},
		{"repeated at both cuts", "k a@x s 9s\nk a@x s 19s\nk a@x s 22s", []int64{10, 20}, 0},
		{"third copy without a cut", "k a@x s 9s\nk a@x s 12s\nk a@x s 13s", []int64{10}, 1},
		{"recorded out of order", "k a@x s 12s\nk a@x s 9s", []int64{10}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Reconcile(books(t, "k a@x s", tt.deliveries))
			var cuts []time.Time
			for _, s := range tt.cuts {
				cuts = append(cuts, time.Unix(s, 0))
			}
			if got := len(r.Late(cuts, 2*time.Second)); got != tt.late {
				t.Errorf("%d late, want %d", got, tt.late)
			}
		})
	}
}

func TestReportText(t *testing.T) {
	var acks strings.Builder
	for range 12 {
		acks.WriteString("k1 a@x s1\n")
	}
	r := Reconcile(books(t, acks.String()+"k2 b@x s2\nk3 c@x s3", "k2 b@x sX 1s\nk3 c@x s3 1s\nk3 c@x s3 2s\nk4 d@x s4 1s"))
	var out strings.Builder
	if err := r.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"missing 12", "missing: and 2 more", "altered: k2 <b@x>", "duplicate: k3 <c@x> at [1970-01-01T00:00:01Z", "unknown: k4 <d@x>"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
}
