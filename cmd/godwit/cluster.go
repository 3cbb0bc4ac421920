package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/cluster"
	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

type clusterCmd struct {
	List   clusterList   `cmd:"" default:"withargs" help:"List the members of the cluster."`
	NewKey clusterNewKey `cmd:"" name:"new-key" help:"Print a new key for cluster.key_file."`
}

type clusterNewKey struct{}

// Help teaches by example.
func (clusterNewKey) Help() string {
	return `The key encrypts gossip and lets nodes and proxies know each other. Every one of them
needs the same, in a file that only its user can read.

Example:
  (umask 077; godwit cluster new-key > /etc/godwit/cluster.key)`
}

// Run prints the key.
func (clusterNewKey) Run(e *env) error {
	_, err := fmt.Fprintln(e.out, cluster.NewKey())
	return err
}

type clusterList struct{ adminFlags }

// Help teaches by example.
func (clusterList) Help() string {
	return `As the node that is asked sees them. drift: rules or sources differ from that node's.

Examples:
  godwit cluster
  godwit cluster --admin mta2:8026 --json`
}

// Run lists members.
func (c *clusterList) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	list, err := a.Cluster(e.ctx)
	if err != nil {
		return a.explain(err)
	}
	if c.JSON {
		return show.JSON(e.out, list)
	}
	now := time.Now()
	t := &show.Table{Empty: "no members", Columns: []show.Column{{Name: "member"}, {Name: "role"}, {Name: "zone"}, {Name: "state"}, {Name: "permits"}, {Name: "seen"},
		{Name: "messages", Right: true}, {Name: "connections", Right: true}, {Name: "version"}, {Name: "configuration"}, {Name: "sources", Grow: true}}}
	var bad []bool
	for i := range list.Members {
		m := &list.Members[i]
		name, seen, messages := m.Name, show.When(m.Seen, now), ""
		if m.Self {
			name, seen = name+" (this node)", ""
		}
		if m.Messages > 0 {
			messages = show.Count(m.Messages)
		}
		t.Add(name, m.Role, m.Zone, memberState(m), contact(m), seen, messages, count(m.Connections), m.Version, configuration(m), strings.Join(m.Sources, ", "))
		bad = append(bad, m.State != adminapi.MemberAlive || m.Drift)
	}
	p := show.New(e.out)
	tinted(p, t, bad)
	if list.Records > 0 {
		p.Printf("%s, digest %s\n", show.Plural(int64(list.Records), "shared record"), short(list.Digest))
	}
	return nil
}

func memberState(m *adminapi.Member) string {
	if m.Draining {
		return m.State + ", draining"
	}
	return m.State
}

// contact tells whether limits that the member owns can be used.
func contact(m *adminapi.Member) string {
	switch {
	case m.Self || m.Link == "":
		return ""
	case m.Contact:
		return "in contact"
	}
	return "out of contact"
}

func configuration(m *adminapi.Member) string {
	s := short(m.ConfigDigest)
	if m.Drift {
		s = note("drift", s)
	}
	return s
}

// short is the beginning of a digest.
func short(digest string) string {
	if len(digest) > 12 {
		return digest[:12]
	}
	return digest
}
