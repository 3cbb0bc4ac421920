package identity

import (
	"testing"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

func TestCacheForgets(t *testing.T) {
	c := newCache(10)
	at := func(n byte) key { return keyOf(1, fact.ByEmail, []byte{n}) }
	for n := range byte(100) {
		c.put(at(n), known{root: fact.ProfileID{n + 1}})
		if _, there := c.get(at(0)); !there {
			t.Fatalf("what is asked for all the time was forgotten after %d others", n)
		}
	}
	kept := 0
	for n := range byte(100) {
		if _, there := c.get(at(n)); there {
			kept++
		}
	}
	if kept > 16 {
		t.Fatalf("%d identifiers fit into a cache for 10", kept)
	}
	c.most = 3
	for n := range byte(10) {
		c.redirect(place{profile: fact.ProfileID{n + 1}})
		if len(c.gone) > 3 {
			t.Fatalf("%d redirects are remembered", len(c.gone))
		}
	}
	if _, there := c.get(at(99)); there {
		t.Error("an identifier outlived the redirects that tell whether it is right")
	}
}

func TestSummaryHasTheLatest(t *testing.T) {
	e := summary(fact.ProfileID{}, []uint64{1, 2, 3, 4, 5})
	if e.claims(1) || !e.claims(2) || !e.claims(5) {
		t.Errorf("of five: %+v", e)
	}
	if e = summary(fact.ProfileID{}, []uint64{1}); !e.claims(1) || e.claims(2) {
		t.Errorf("of one: %+v", e)
	}
}
