package rules

import "strings"

// Sample is a reply that a rule carries, for tests.
type Sample struct{ Rule, Provider, Reply string }

// Samples are the replies that the shipped packs carry.
func Samples(*Set) (matches, not []Sample) {
	texts, err := Read([]string{AllPacks}, nil)
	if err != nil {
		return nil, nil
	}
	for _, t := range texts {
		s, err := decode(t)
		if err != nil {
			return nil, nil
		}
		collect := func(provider string, list []ruleText) {
			for _, r := range list {
				id := (&Rule{Provider: provider, Name: r.Name}).ID()
				for _, reply := range r.Matches {
					matches = append(matches, Sample{id, provider, reply})
				}
				for _, reply := range r.Not {
					not = append(not, Sample{id, provider, reply})
				}
			}
		}
		collect("", s.doc.Default.Rule)
		for _, p := range s.doc.Provider {
			collect(p.Name, p.Rule)
		}
	}
	return matches, not
}

// MatchSlowly is Match without looking for texts first.
func (s *Set) MatchSlowly(provider, text string) []Rule {
	try := func(m *matcher) (list []Rule) {
		if m == nil {
			return nil
		}
		for _, a := range m.rules {
			if a.re.MatchString(text) {
				list = append(list, a.Rule)
			}
		}
		return list
	}
	if p := s.byName[provider]; p != nil {
		if list := try(p.rules); len(list) > 0 {
			return list
		}
	}
	return try(s.fallback)
}

// Literals are the texts that a pattern is looked for by, joined.
func Literals(pattern string) string {
	var list []string
	for _, b := range literals(pattern) {
		list = append(list, string(b))
	}
	return strings.Join(list, "|")
}
