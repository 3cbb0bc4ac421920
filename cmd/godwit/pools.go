package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

type poolsCmd struct {
	adminFlags
	Down bool `help:"Only sources and proxies that are not up."`
}

// Help teaches by example.
func (poolsCmd) Help() string {
	return `Examples:
  godwit pools
  godwit pools --down`
}

// Run lists pools, sources and proxies.
func (c *poolsCmd) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	list, err := a.Pools(e.ctx)
	if err != nil {
		return a.explain(err)
	}
	if c.JSON {
		return show.JSON(e.out, list)
	}
	p := show.New(e.out)
	if !c.Down {
		showPools(p, list)
	}
	showSources(p, list, c.Down)
	showProxies(p, list, c.Down)
	return nil
}

// heading begins a part, with an empty line before all but the first.
func heading(p *show.Page, first bool, s string) {
	if !first {
		p.Printf("\n")
	}
	p.Heading(s)
}

func showPools(p *show.Page, list *adminapi.PoolsResponse) {
	states := map[string]string{}
	for _, s := range list.Sources {
		states[s.Name] = s.State
	}
	heading(p, true, "pools")
	t := &show.Table{Empty: "none: mail leaves from the host's own address", Columns: []show.Column{{Name: "pool"}, {Name: "usable", Right: true}, {Name: "sources", Grow: true}, {Name: "fallback"}}}
	var bad []bool
	for _, x := range list.Pools {
		up := 0
		var members []string
		for _, m := range x.Members {
			s := m.Source
			if m.Weight != 1 {
				s += fmt.Sprintf("×%d", m.Weight)
			}
			if states[m.Source] == adminapi.StateUp {
				up++
			} else {
				s += " (" + states[m.Source] + ")"
			}
			members = append(members, s)
		}
		name := x.Name
		if x.Default {
			name += " (default)"
		}
		t.Add(name, fmt.Sprintf("%d of %d", up, len(x.Members)), strings.Join(members, ", "), x.Fallback)
		bad = append(bad, up == 0)
	}
	tinted(p, t, bad)
}

func showSources(p *show.Page, list *adminapi.PoolsResponse, down bool) {
	heading(p, down, "sources")
	now := time.Now()
	t := &show.Table{Empty: "none", Columns: []show.Column{{Name: "source"}, {Name: "address"}, {Name: "EHLO"}, {Name: "proxy"}, {Name: "zone"},
		{Name: "connections", Right: true}, {Name: "warm-up today", Grow: true}, {Name: "health", Grow: true}}}
	if down {
		t.Empty = "all are up"
	}
	var bad []bool
	for _, x := range list.Sources {
		isBad := x.State != adminapi.StateUp
		if down && !isBad {
			continue
		}
		var daily []string
		for _, d := range x.Daily {
			name := d.Provider
			if name == "" {
				name = "others"
			}
			daily = append(daily, fmt.Sprintf("%s %s of %s", name, show.Count(d.Sent), show.Count(d.Limit)))
		}
		address := strings.TrimSpace(x.Bind + " " + x.Bind6)
		if x.Public != "" {
			address += " → " + x.Public
		}
		t.Add(x.Name, address, x.EHLO, x.Proxy, x.Zone, count(x.Connections), strings.Join(daily, ", "), health(x.State, x.Reason, x.Since, now))
		bad = append(bad, isBad)
	}
	tinted(p, t, bad)
}

func showProxies(p *show.Page, list *adminapi.PoolsResponse, down bool) {
	if len(list.Proxies) == 0 {
		return
	}
	now := time.Now()
	t := &show.Table{Empty: "all are up", Columns: []show.Column{{Name: "proxy"}, {Name: "kind"}, {Name: "address"}, {Name: "zone"}, {Name: "connections", Right: true}, {Name: "health", Grow: true}}}
	var bad []bool
	for _, x := range list.Proxies {
		isBad := x.State != adminapi.StateUp
		if down && !isBad {
			continue
		}
		t.Add(x.Name, x.Kind, x.Address, x.Zone, count(x.Connections), health(x.State, x.Reason, x.Since, now))
		bad = append(bad, isBad)
	}
	heading(p, false, "proxies")
	tinted(p, t, bad)
}

// tinted prints a table with the bad rows in the colour of bad news.
func tinted(p *show.Page, t *show.Table, bad []bool) {
	if len(t.Rows) == 0 {
		p.Table(t)
		return
	}
	for i, line := range p.Lines(t) {
		if i > 0 && bad[i-1] {
			line = p.Bad(line)
		}
		p.Printf("%s\n", line)
	}
}
