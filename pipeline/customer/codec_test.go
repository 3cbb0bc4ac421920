package customer

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// FuzzRows reads rows of all kinds. What can be read is written the same way, or at least means the same.
func FuzzRows(f *testing.F) {
	d := document{created: 5, updated: 6, attributes: []byte(`{"a":1}`), lists: []membership{{"l", 7}}, suppressions: []suppression{{HardBounce, 8}},
		consents: []consent{{channel: Email, subscribed: true, at: 9, updated: 10, yes: 9, method: "api"}, {channel: "sms", at: 9, yes: never}}}
	d.ids[1] = "a@example.com"
	f.Add(d.append(nil))
	r := row{flags: hasValue | hasKept | hasContent, time: -5, arrived: 2995, value: 7, kept: []byte(`{}`), content: []byte(`{}`)}
	f.Add(r.append(nil))
	f.Add(head{standing: living, has: 6, last: 99}.append(nil))
	f.Add(head{standing: merged, to: fact.ProfileID{1}}.append(nil))
	f.Add((&bucket{count: 3, sum: -4, first: 10*dayMillis + 5, last: 10*dayMillis + 9}).append(nil, 10))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d, d2 document
		if d.parse(b) == nil {
			again := d.append(nil)
			if err := d2.parse(again); err != nil || !bytes.Equal(d2.append(nil), again) {
				t.Errorf("document %q: %v", b, err)
			}
		}
		var r, r2 row
		if r.parse(b) == nil {
			again := r.append(nil)
			if err := r2.parse(again); err != nil || !bytes.Equal(r2.append(nil), again) {
				t.Errorf("event %q: %v", b, err)
			}
		}
		var h, h2 head
		if h.parse(b) == nil {
			again := h.append(nil)
			if err := h2.parse(again); err != nil || h2 != h {
				t.Errorf("head %q: %v", b, err)
			}
		}
		var u bucket
		_ = u.parse(b, 10)
	})
}

func FuzzCursor(f *testing.F) {
	q := question{tenant: 5, kind: 'x', detail: "d"}
	f.Add(q.cursor([]byte("place")))
	f.Fuzz(func(t *testing.T, s string) {
		place, err := q.place(s)
		if err == nil && s != "" && q.cursor(place) != s {
			t.Errorf("%q: %q", s, place)
		}
	})
}

// FuzzTransfer takes in anything, and what it took can be read.
func FuzzTransfer(f *testing.F) {
	good := chunks{f: &fact.Fact{Merge: &fact.Merge{Destination: fact.ProfileID{1}}}}
	d := document{attributes: []byte(`{"a":1}`)}
	good.document(d.append(nil), 5)
	good.row(chunkEvent, make([]byte, 8+hashSize), (&row{time: 5, arrived: 5, flags: hasContent, content: []byte(`{}`)}).append(nil))
	good.row(chunkBucket, appendDay(make([]byte, 8), 3), (&bucket{count: 1, first: 3 * dayMillis, last: 3 * dayMillis}).append(nil, 3))
	f.Add(good.buf)
	topic, err := stream.NewMemory().Topic(f.Context(), "facts", 1)
	if err != nil {
		f.Fatal(err)
	}
	open, err := NewProcessor(DefaultOptions(), Deps{Facts: topic, Partitions: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := keyed.OpenStore("state", keyed.StoreOptions{FS: vfs.NewMem(), MemTable: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		p, err := open(s, stream.Assignment{})
		if err != nil {
			t.Fatal(err)
		}
		tx := s.Begin(stream.Assignment{})
		to := &fact.Fact{Kind: fact.KindTransfer, Tenant: "t", Profile: fact.ProfileID{1}, Transfer: &fact.Transfer{Level: fact.StageCustomer, Data: data}}
		if err := p.Apply(tx, []stream.Record{{Data: to.Append(nil)}}); err != nil {
			t.Fatal(err)
		}
		if err := p.Flush(tx); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(1); err != nil {
			t.Fatal(err)
		}
		r := NewReader(func(int32) (*keyed.Store, bool) { return s, true }, 1)
		if _, err := r.Profiles("t", ProfileQuery{}); err != nil {
			t.Error(err)
		}
	})
}
