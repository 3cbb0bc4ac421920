package rules

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"

	"golang.org/x/net/idna"
)

// Set is the rules of all packs and files. It never changes and is safe for concurrent use.
type Set struct {
	def       settings
	fallback  *matcher // the default block's rules
	providers []*provider
	byName    map[string]*provider
	sites     map[string]*site // by host name, or by suffix with its dot
	domains   map[string]*block
	tenants   map[span]*settings // by tenant, "*" is any; the provider may be ""
	pools     map[span]*settings
	digest    string
}

// span is the name of a tenant or pool, with a provider or none.
type span struct{ name, provider string }

// anyone is the tenant block that holds for tenants without a value of their own.
const anyone = "*"

// block is the values of a block and of the sources in it.
type block struct {
	settings
	sources map[string]*settings
}

func (b *block) source(name string) *settings {
	if name == "" {
		return nil
	}
	return b.sources[name]
}

type provider struct {
	Provider
	block
	each  settings // count at each site
	pool  settings
	rules *matcher
}

type site struct {
	match string // a host name, or a suffix with its dot
	block
}

// Providers returns the providers in the order in which a router must try
// them: those of later files first, the shipped ones last.
func (s *Set) Providers() []Provider {
	list := make([]Provider, 0, len(s.providers))
	for _, p := range s.providers {
		list = append(list, Provider{Name: p.Name, MXSuffix: slices.Clone(p.MXSuffix), Hosts: slices.Clone(p.Hosts)})
	}
	return list
}

// ProviderOf returns the name of the first provider that all hosts belong to, or "".
func (s *Set) ProviderOf(hosts []string) string {
	for _, p := range s.providers {
		if p.Covers(hosts) {
			return p.Name
		}
	}
	return ""
}

// HasDomain reports whether a block names the domain: its mail counts on its own.
func (s *Set) HasDomain(domain string) bool {
	if len(s.domains) == 0 {
		return false
	}
	_, ok := s.domains[domainKey(domain)]
	return ok
}

// Rules returns all automation rules, the default's last.
func (s *Set) Rules() []Rule {
	var list []Rule
	for _, p := range s.providers {
		list = append(list, p.rules.all()...)
	}
	return append(list, s.fallback.all()...)
}

// Digest names the content of the set: nodes with the same rules print the same. It does not depend on file names.
func (s *Set) Digest() string { return s.digest }

func digestOf(texts []Text) string {
	h := sha256.New()
	for _, t := range texts {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(t.Data)))
		_, _ = h.Write(n[:]) // a hash takes everything
		_, _ = h.Write(t.Data)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// domainKey is the form in which domains are compared: lower case, A-labels.
func domainKey(domain string) string {
	for i := range len(domain) {
		if c := domain[i]; c >= 0x80 {
			if ascii, err := idna.Lookup.ToASCII(domain); err == nil {
				return ascii
			}
			break
		}
	}
	return strings.ToLower(domain)
}
