package identity

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// protocol handles what partitions of the first log tell each other, and requests to merge and delete.
func (p *processor) protocol(t *tenant, data []byte) error {
	var in fact.Intake
	if err := in.Parse(data); err != nil {
		return err
	}
	switch {
	case in.Kind == fact.KindClaim && in.Claim != nil:
		return p.claimed(t, &in)
	case in.Kind == fact.KindMerge && in.Merge != nil:
		return p.merge(t, &in)
	case in.Kind == fact.KindRedirect && in.Merge != nil:
		return p.redirected(t, &in)
	}
	return p.invalid("it lacks what its kind says")
}

// claimed decides, as the owner of the identifier, whether it joins the profile of the stronger one that it came along with.
func (p *processor) claimed(t *tenant, in *fact.Intake) error {
	c := in.Claim
	target, dead, err := p.follow(place{t.id, c.Profile})
	if err != nil {
		return err
	}
	if dead {
		return nil // the stronger one claims again with its next profile
	}
	k := keyOf(t.id, c.ID.Kind, []byte(c.ID.Value))
	b, err := loadBinding(p.tx, k)
	if err != nil {
		return err
	}
	if b == nil {
		return p.bind(k, target)
	}
	root, dead, err := p.follow(place{t.id, b.profile})
	switch {
	case err != nil:
		return err
	case dead || p.returned(t, c, root):
		return p.bind(k, target)
	case root == target:
		return nil
	case b.own && root == b.profile && c.By.Kind < c.ID.Kind:
		// It stays bound until the redirect comes: what Home decides of two merges that are asked for at once, holds for it too.
		p.ask(&fact.Intake{Kind: fact.KindMerge, Tenant: t.name, At: in.At, Claim: c, Merge: &fact.Merge{Source: root, Destination: target}}, t.home)
		return nil
	}
	p.conflicts(t, c.ID)
	return nil
}

// bind gives an identifier to a profile that was made for another one.
func (p *processor) bind(k key, profile fact.ProfileID) error {
	p.cache.remove(k)
	p.count.claimed++
	return p.store(k, &binding{profile: profile})
}

// returned reports whether the claim's profile is the one that its identifier got when it came back after root was deleted: then
// root is deleted, though this partition has not heard of it yet.
func (p *processor) returned(t *tenant, c *fact.Claim, root fact.ProfileID) bool {
	return c.By.Kind != fact.ByProfile && c.Profile == fact.DeriveProfile(t.name, c.By, root)
}

func (p *processor) conflicts(t *tenant, id fact.Identifier) {
	p.count.conflicts++
	p.conflict(t.name, id)
}

// merge decides, as the tenant's Home, on a merge or deletion, and tells all partitions. What
// is decided holds here at once: the next request must see it.
func (p *processor) merge(t *tenant, in *fact.Intake) error {
	m := in.Merge
	if m.Source.IsZero() {
		return p.invalid("it has no source")
	}
	if t.home != p.from.Partition {
		p.ask(in, t.home)
		return nil
	}
	source, dead, err := p.follow(place{t.id, m.Source})
	if err != nil || dead {
		return err
	}
	var destination fact.ProfileID
	if !m.Destination.IsZero() {
		if destination, dead, err = p.follow(place{t.id, m.Destination}); err != nil || dead || destination == source {
			return err
		}
		if in.Claim != nil && source != m.Source {
			// The identifier's own profile was all that could be claimed. Who it is part of now is somebody.
			p.conflicts(t, in.Claim.ID)
			return nil
		}
		p.count.merged++
	} else {
		p.count.deleted++
	}
	decided := fact.Merge{ID: p.mergeID(t), Source: source, Destination: destination}
	for q := range p.d.Intake.Partitions() {
		p.ask(&fact.Intake{Kind: fact.KindRedirect, Tenant: t.name, At: in.At, Merge: &decided}, q)
	}
	return p.redirect(place{t.id, source}, destination)
}

// mergeID is derived from the record at hand.
func (p *processor) mergeID(t *tenant) [16]byte {
	b := append([]byte("merge"), byte(len(t.name)))
	b = append(b, t.name...)
	b = binary.BigEndian.AppendUint32(b, uint32(p.from.Partition))
	h := sha256.Sum256(binary.BigEndian.AppendUint64(b, uint64(p.from.Offset)))
	return [16]byte(h[:16])
}

// redirected notes a decision of Home. From here on nothing goes out under the source, and the marker says so.
func (p *processor) redirected(t *tenant, in *fact.Intake) error {
	m := in.Merge
	if err := p.redirect(place{t.id, m.Source}, m.Destination); err != nil {
		return err
	}
	p.tell(&fact.Fact{Kind: fact.KindMarker, Tenant: t.name, Profile: m.Source, At: in.At, Merge: m}, m.Source.Partition(p.d.Facts.Partitions()))
	return nil
}

func (p *processor) redirect(from place, to fact.ProfileID) error {
	p.cache.redirect(from)
	p.buf = from.append(p.buf[:0])
	p.moves.profiles.Add(hashOfPlace(p.buf[1:]))
	p.buf = append(append(p.buf, rowVersion), to[:]...)
	return p.tx.Set(p.buf[:keyLen], p.buf[keyLen:])
}

// object passes on a document of the tenant.
func (p *processor) object(t *tenant, data []byte) error {
	var in fact.Intake
	if err := in.Parse(data); err != nil {
		return err
	}
	if in.Object == nil {
		return p.invalid("it lacks what its kind says")
	}
	p.pass(fact.ProfileID{}, fact.ObjectPartition(t.name, in.Object.ID, p.d.Facts.Partitions()))
	return nil
}
