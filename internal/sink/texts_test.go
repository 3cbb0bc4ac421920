package sink

import (
	"strings"
	"testing"

	shipped "github.com/godwit-mta/godwit/throttle/rules"
)

// TestTextsMeetTheRules: what a provider says here about limits and blocks is
// claimed by an automation rule of its shipped pack, or else of the default one.
func TestTextsMeetTheRules(t *testing.T) {
	set, err := shipped.Load([]string{shipped.AllPacks}, nil)
	if err != nil {
		t.Fatal(err)
	}
	packs := map[string]string{"gmail": "google"} // where the names differ
	for _, name := range textNames() {
		pack := name
		if p, ok := packs[name]; ok {
			pack = p
		}
		x := textsOf(name)
		for kind, list := range map[string][]reply{"limited": x.limited, "connections": x.connections, "blocked": x.blocked} {
			for _, r := range list {
				r = r.forPeer("192.0.2.10")
				line := strings.TrimSpace(string(reply{r.code, r.enhanced, strings.ReplaceAll(r.text, "\n", " ")}.append(nil, true)))
				if len(set.Match(pack, line)) == 0 {
					t.Errorf("%s, %s: no rule claims %q", name, kind, line)
				}
			}
		}
	}
}
