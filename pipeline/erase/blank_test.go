package erase

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

const secret = "victim"

var someone = fact.ProfileID{1, 2, 3}

// transferOf is a transfer of the account level, of a version, with two events of one metric and one of another.
func transferOf(version byte, hashSize int, uids ...string) []byte {
	b := []byte{version}
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	for i, n := range []int{2, 1} {
		b = binary.BigEndian.AppendUint64(b, uint64(i)+7)
		b = binary.AppendVarint(b, -1000)
		text("api")
		text("Placed Order")
		b = binary.AppendUvarint(b, uint64(n))
		for range n {
			h := sha256.Sum256([]byte(uids[0]))
			uids = uids[1:]
			b = append(b, h[:hashSize]...)
			b = binary.AppendVarint(b, -300)
			b = binary.AppendVarint(b, 1<<40)
			b = binary.AppendUvarint(b, 1)
			text("URL")
			text("/1")
		}
	}
	return b
}

// TestBlankFact: nothing personal stays, what is counted does, and blanking twice changes nothing.
func TestBlankFact(t *testing.T) {
	from := fact.Origin{Stage: fact.StageIdentity, Partition: 1, Offset: 9, N: 1}
	who := []fact.Identifier{{Kind: fact.ByEmail, Value: secret + "@mail.test"}}
	change := &fact.Change{Attributes: []byte(`{"email":"` + secret + `@mail.test"}`)}
	event := &fact.Event{Metric: 5, Service: "api", Name: "Opened", UID: secret + "-1", Value: 7, HasValue: true, Dims: []fact.Dim{{Name: "URL", Value: "/"}}, Properties: []byte(`{"a":"` + secret + `"}`)}
	merge := fact.Merge{ID: [16]byte{4}, Source: fact.ProfileID{9}, Destination: someone}
	for name, c := range map[string]struct {
		f    fact.Fact
		want *fact.Fact
	}{
		"event": {fact.Fact{Kind: fact.KindEvent, Tenant: "shop", Profile: someone, Who: who, Event: event, Change: change, From: from},
			&fact.Fact{Kind: fact.KindEvent, Tenant: "shop", Profile: someone, From: from, Event: &fact.Event{Metric: 5, Service: "api", Name: "Opened", UID: UID(secret + "-1"), Value: 7, HasValue: true, Dims: event.Dims}}},
		"change": {fact.Fact{Kind: fact.KindChange, Tenant: "shop", Profile: someone, Who: who, Change: change, From: from}, nil},
		"transfer of a profile": {fact.Fact{Kind: fact.KindTransfer, Tenant: "shop", Profile: someone, From: from, Transfer: &fact.Transfer{Merge: merge, Level: fact.StageCustomer, N: 1, Data: []byte("\x01p" + secret)}},
			&fact.Fact{Kind: fact.KindTransfer, Tenant: "shop", Profile: someone, From: from, Transfer: &fact.Transfer{Merge: merge, Level: fact.StageCustomer, N: 1, Data: []byte{1}}}},
		"transfer of counts": {fact.Fact{Kind: fact.KindTransfer, Tenant: "shop", Profile: someone, From: from, Transfer: &fact.Transfer{Merge: merge, Level: fact.StageAccount, Last: true, Data: transferOf(2, 8, "a", "b", "c")}},
			&fact.Fact{Kind: fact.KindTransfer, Tenant: "shop", Profile: someone, From: from, Object: &fact.Object{Type: erasedType},
				Transfer: &fact.Transfer{Merge: merge, Level: fact.StageAccount, Last: true, Data: transferOf(2, 8, UID("a"), UID("b"), UID("c"))}}},
	} {
		data := c.f.Append(nil)
		out, keep, err := blankFact(data)
		if err != nil || keep != (c.want != nil) {
			t.Fatalf("%s: %v, %v", name, keep, err)
		}
		if !keep {
			continue
		}
		if want := c.want.Append(nil); !bytes.Equal(out, want) || bytes.Contains(out, []byte(secret)) {
			t.Errorf("%s:\n%q, want\n%q", name, out, want)
		}
		again, keep, err := blankFact(out)
		if err != nil || !keep || !bytes.Equal(again, out) {
			t.Errorf("%s, a second time:\n%q, want\n%q", name, again, out)
		}
	}
}

// TestBlankTransfer: both versions of transfers get the hashes that the erased events have; what is cut off or of another version is an error.
func TestBlankTransfer(t *testing.T) {
	for version, size := range uidSizes {
		data := transferOf(version, int(size), "a", "b", "a")
		got, err := renameEvents(data)
		if want := transferOf(version, int(size), UID("a"), UID("b"), UID("a")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("version %d: %x, want %x: %v", version, got, want, err)
		}
		for n := range len(data) {
			// It may end between two metrics.
			if out, err := renameEvents(data[:n]); err == nil && n > 1 && len(out) != n {
				t.Errorf("version %d, %d of %d bytes: %x", version, n, len(data), out)
			}
		}
		if _, err := renameEvents(data[:len(data)-1]); err == nil {
			t.Errorf("version %d: cut off and taken", version)
		}
	}
	if _, err := renameEvents([]byte{77}); err == nil {
		t.Error("a version that does not exist was taken")
	}
}

// FuzzBlankFact: whatever is in a log, blanking ends and can be repeated.
func FuzzBlankFact(f *testing.F) {
	one := fact.Fact{Kind: fact.KindTransfer, Tenant: "shop", Profile: someone, Transfer: &fact.Transfer{Level: fact.StageAccount, Data: transferOf(1, 16, "a", "b", "c")}}
	f.Add(one.Append(nil))
	two := fact.Fact{Kind: fact.KindEvent, Tenant: "shop", Profile: someone, Event: &fact.Event{UID: "x", Properties: []byte("{}")}}
	f.Add(two.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, keep, err := blankFact(data)
		if err != nil || !keep {
			return
		}
		again, keep, err := blankFact(out)
		if err != nil || !keep || !bytes.Equal(again, out) {
			t.Errorf("%q, then %q: %v", out, again, err)
		}
	})
}

// TestHead: what is read of a record without parsing it is what parsing it finds.
func TestHead(t *testing.T) {
	f := fact.Fact{Kind: fact.KindChange, Tenant: strings.Repeat("t", 200), Profile: someone, Change: &fact.Change{}}
	data := f.Append(nil)
	if h, ok := headOf(data); !ok || h.kind != f.Kind || string(h.tenant) != f.Tenant || h.profile != someone {
		t.Errorf("%+v, %v", h, ok)
	}
	for n := range 3 + 2 + 200 + 16 {
		if _, ok := headOf(data[:n]); ok {
			t.Errorf("%d bytes are a head", n)
		}
	}
}

// TestBlankMerge: a merge that a claim asked for loses its identifiers if it is about the erased, and stays a merge.
func TestBlankMerge(t *testing.T) {
	in := fact.Intake{Kind: fact.KindMerge, Tenant: "shop", Merge: &fact.Merge{Source: someone, Destination: fact.ProfileID{8}},
		Claim: &fact.Claim{ID: fact.Identifier{Kind: fact.ByPhone, Value: secret}, By: fact.Identifier{Kind: fact.ByEmail, Value: secret}, Profile: fact.ProfileID{8}}}
	data := in.Append(nil)
	ours := func(_ string, p fact.ProfileID) bool { return p == someone }
	out, err := blankMerge(data, ours)
	if err != nil || bytes.Contains(out, []byte(secret)) {
		t.Fatalf("%q, %v", out, err)
	}
	var got fact.Intake
	if err := got.Parse(out); err != nil || *got.Merge != *in.Merge || got.Claim == nil || got.Claim.Profile != in.Claim.Profile {
		t.Errorf("%+v, %v", got, err)
	}
	if again, err := blankMerge(out, ours); err != nil || !bytes.Equal(again, out) {
		t.Errorf("a second time: %q, %v", again, err)
	}
	if same, _ := blankMerge(data, func(string, fact.ProfileID) bool { return false }); !bytes.Equal(same, data) {
		t.Error("a merge of others was changed")
	}
}
