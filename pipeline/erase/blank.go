package erase

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// uidPrefix begins what stands for the unique id of an erased event.
const uidPrefix = "erased:"

// UID is what stands for the unique id of an event whose profile was erased: equal ids stay equal, so that what counted once
// does so in a replay.
func UID(uid string) string {
	if strings.HasPrefix(uid, uidPrefix) {
		return uid
	}
	return uidOf(sha256.Sum256([]byte(uid)))
}

func uidOf(h [sha256.Size]byte) string { return uidPrefix + hex.EncodeToString(h[:uidSize]) }

// uidSize is how much of the SHA-256 of a unique id the account level knows an event by.
const uidSize = 8

// erasedType is the type of the object that says of a fact that it was erased, where nothing else does.
const erasedType = "erased"

// head is what a record begins with, in both logs.
type head struct {
	kind    fact.Kind
	tenant  []byte
	profile fact.ProfileID
}

// headOf reads it without reading the rest.
func headOf(data []byte) (h head, ok bool) {
	if len(data) < 4 {
		return h, false
	}
	h.kind = fact.Kind(data[1])
	n, size := binary.Uvarint(data[3:])
	data = data[3+max(size, 0):]
	if size <= 0 || n > uint64(len(data)) || uint64(len(data))-n < uint64(len(h.profile)) {
		return h, false
	}
	h.tenant = data[:n]
	copy(h.profile[:], data[n:])
	return h, true
}

// personal reports whether facts of a kind have personal data.
func personal(k fact.Kind) bool {
	return k == fact.KindEvent || k == fact.KindChange || k == fact.KindTransfer
}

// blankFact returns what stays of a fact of an erased profile; false if nothing does. Of a fact that was blanked it returns the same.
func blankFact(data []byte) ([]byte, bool, error) {
	var f fact.Fact
	if err := f.Parse(data); err != nil {
		return nil, false, err
	}
	switch {
	case f.Kind == fact.KindEvent && f.Event != nil:
		f.Who, f.Change = nil, nil
		f.Event.Properties, f.Event.UID = nil, UID(f.Event.UID)
	case f.Kind == fact.KindTransfer && f.Transfer != nil:
		if err := blankTransfer(&f); err != nil {
			return data, true, err
		}
	default:
		return nil, false, nil
	}
	return f.Append(nil), true, nil
}

func blankTransfer(f *fact.Fact) error {
	t := f.Transfer
	switch {
	case t.Level == fact.StageCustomer && len(t.Data) > 0:
		t.Data = t.Data[:1] // its version, and nothing behind it
	case t.Level == fact.StageAccount && f.Object == nil:
		data, err := renameEvents(t.Data)
		if err != nil {
			return err
		}
		t.Data, f.Object = data, &fact.Object{Type: erasedType}
	}
	return nil
}

// errTransfer says that a transfer of the account level is not in a form that docs/formats/account.md has. It names nobody, so it stays.
var errTransfer = errors.New("erase: a transfer of counts cannot be read; the counts of deleted profiles that were merged may differ in a replay from the log's beginning")

// uidSizes are the lengths of hashes in transfers, by their version.
var uidSizes = map[byte]uint64{1: 16, 2: uidSize}

// renameEvents changes the hashes of unique ids in a transfer of the account level to those that the erased events have: the same
// event must be known again, whichever way it comes.
func renameEvents(data []byte) ([]byte, error) {
	out := append([]byte(nil), data...)
	c := cutter{b: out}
	v := c.take(1)
	if v == nil || uidSizes[v[0]] == 0 {
		return nil, errTransfer
	}
	size := uidSizes[v[0]]
	for len(c.b) > 0 && !c.bad {
		c.take(8) // metric
		c.number()
		c.take(c.number())
		c.take(c.number())
		for n := c.number(); n > 0 && !c.bad; n-- {
			c.event(size)
		}
	}
	if c.bad {
		return nil, errTransfer
	}
	return out, nil
}

// cutter takes values off the front of b.
type cutter struct {
	b   []byte
	bad bool
}

func (c *cutter) take(n uint64) []byte {
	if c.bad || n > uint64(len(c.b)) {
		c.bad = true
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

// number is a varint; of signed ones only the length is of interest.
func (c *cutter) number() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 || c.bad {
		c.bad = true
		return 0
	}
	c.b = c.b[n:]
	return v
}

// event renames one event: hash, time, value, dimensions.
func (c *cutter) event(size uint64) {
	uid := c.take(size)
	c.number()
	c.number()
	for n := c.number(); n > 0 && !c.bad; n-- {
		c.take(c.number())
		c.take(c.number())
	}
	if c.bad {
		return
	}
	var whole [sha256.Size]byte
	copy(whole[:], uid)
	h := sha256.Sum256([]byte(uidOf(whole)))
	copy(uid, h[:])
}

// blankMerge takes the identifiers out of a merge that a claim asked for.
func blankMerge(data []byte, ours func(tenant string, p fact.ProfileID) bool) ([]byte, error) {
	var in fact.Intake
	if err := in.Parse(data); err != nil {
		return data, err
	}
	if in.Claim == nil || in.Merge == nil || !ours(in.Tenant, in.Merge.Source) && !ours(in.Tenant, in.Claim.Profile) {
		return data, nil
	}
	none := fact.Identifier{Kind: fact.ByAnonymous}
	in.Claim.ID, in.Claim.By = none, none
	return in.Append(nil), nil
}

// sealIntake seals the identifiers of a record of the first log and drops what else it says.
func (e *Eraser) sealIntake(data []byte, profile fact.ProfileID) ([]byte, error) {
	var in fact.Intake
	if err := in.Parse(data); err != nil {
		return nil, err
	}
	seal := func(id fact.Identifier) fact.Identifier { return e.d.Seal(in.Tenant, id, profile) }
	for i := range in.Who {
		in.Who[i] = seal(in.Who[i])
	}
	in.Event, in.Change = nil, nil
	if in.Claim != nil {
		in.Claim.ID, in.Claim.By = seal(in.Claim.ID), seal(in.Claim.By)
	}
	return in.Append(nil), nil
}
