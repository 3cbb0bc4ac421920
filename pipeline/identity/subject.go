package identity

import (
	"slices"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// found is whose the first identifier of a record is.
type found struct {
	known
	b       *binding // nil until it is needed, if the cache knew enough
	existed bool     // before this record
	dead    bool     // it was named by the id of a deleted profile: no event brings that back
	changed bool     // b is to be stored
}

// subject finds whose an event or a change is and passes it on.
func (p *processor) subject(t *tenant, k key) error {
	if len(p.raw.Who) == 0 {
		return p.invalid("it names nobody")
	}
	who := p.raw.Who[0]
	var f found
	var err error
	if f.known, f.existed = p.cache.get(k); !f.existed {
		if f, err = p.find(t, k, who); err != nil {
			return err
		}
	}
	switch {
	case f.dead:
		p.count.gone++
		return nil
	case f.root.IsZero():
		return p.invalid("its profile id is none")
	case p.raw.Fresh && f.existed:
		p.count.fresh++
		return nil
	}
	p.pass(f.root, f.root.Partition(p.d.Facts.Partitions()))
	if len(p.raw.Who) > 1 {
		if err := p.claimAll(t, k, &f); err != nil {
			return err
		}
	}
	if f.b != nil {
		p.cache.put(k, summary(f.root, f.b.claimed))
	}
	if f.changed {
		return p.store(k, f.b)
	}
	return nil
}

// find reads whose an identifier is. What is nobody's gets a profile of its own. A profile id that is none has the zero root.
func (p *processor) find(t *tenant, k key, who fact.RawIdentifier) (found, error) {
	b, err := loadBinding(p.tx, k)
	if err != nil {
		return found{}, err
	}
	if who.Kind == fact.ByProfile && b == nil {
		id, err := fact.ParseProfileID(string(who.Value))
		if err != nil || id.IsZero() {
			return found{}, nil
		}
		b = &binding{profile: id}
	}
	if b == nil {
		return p.create(t, who, fact.ProfileID{})
	}
	root, dead, err := p.follow(place{t.id, b.profile})
	switch {
	case err != nil:
		return found{}, err
	case !dead:
		return found{known: known{root: root}, b: b, existed: true}, nil
	case who.Kind == fact.ByProfile:
		return found{dead: true}, nil
	}
	return p.create(t, who, root)
}

// create makes a profile for an identifier. after is the deleted one that had it before.
func (p *processor) create(t *tenant, who fact.RawIdentifier, after fact.ProfileID) (found, error) {
	if sealed, is := unseal(who.Value); is { // it made a profile, which was erased since
		root, _, err := p.follow(place{t.id, sealed.profile})
		return found{known: known{root: root}, b: &binding{profile: sealed.profile, own: true}, changed: true}, err
	}
	for {
		profile := fact.DeriveProfile(t.name, who.Copy(), after)
		// Nobody can have merged or deleted what was not there; but ids can be worked out, and asked for.
		root, dead, err := p.follow(place{t.id, profile})
		if err != nil {
			return found{}, err
		}
		if dead {
			after = root
			continue
		}
		p.count.created++
		return found{known: known{root: root}, b: &binding{profile: profile, own: true}, changed: true}, nil
	}
}

// claimAll asks for the weaker identifiers of the record that the binding of the first does not have yet.
func (p *processor) claimAll(t *tenant, k key, f *found) error {
	for _, id := range p.raw.Who[1:] {
		h := hashOf(id.Kind, id.Value)
		if f.claims(h) || id.Kind == fact.ByProfile {
			continue
		}
		if f.b == nil {
			b, err := loadBinding(p.tx, k)
			switch {
			case err != nil:
				return err
			case b == nil && p.raw.Who[0].Kind != fact.ByProfile:
				return errState
			case b == nil: // a profile id claims for the first time
				b = &binding{profile: f.root}
			}
			f.b = b
		}
		if slices.Contains(f.b.claimed, h) {
			continue
		}
		f.b.claim(h)
		f.changed = true
		if _, erased := unseal(id.Value); !erased { // the owner was asked the first time
			p.claim(t, id.Copy(), f.root)
		}
	}
	return nil
}

// claim asks the owner of a weaker identifier to bind it to the profile of the record.
func (p *processor) claim(t *tenant, id fact.Identifier, profile fact.ProfileID) {
	p.ask(&fact.Intake{
		Kind: fact.KindClaim, Tenant: t.name, At: p.raw.At,
		Claim: &fact.Claim{ID: id, By: p.raw.Who[0].Copy(), Profile: profile},
	}, fact.PartitionOf(t.name, id, p.d.Intake.Partitions()))
}
