package proxy

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// maxWeight bounds weights, so that shares stay numbers that mean something.
const maxWeight = 1_000_000

// Validate returns an error that begins with the key it is about. Files are not read.
func (o Options) Validate() error {
	if o.ProxyTimeout <= 0 {
		return errors.New("proxy_timeout: must be more than 0")
	}
	proxies, err := o.validateProxies()
	if err != nil {
		return err
	}
	if err := o.validateWarmups(); err != nil {
		return err
	}
	if err := o.validateSources(proxies); err != nil {
		return err
	}
	return o.validatePools()
}

// checkName refuses what could not be written in rules, keys and addresses of the API.
func checkName(key, name string, seen map[string]bool) error {
	switch {
	case name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`"=,/*`, r) }):
		return fmt.Errorf("%s: must be 1 to 64 characters without spaces and without \" = , / *", key)
	case seen[name]:
		return fmt.Errorf("%s: %s is listed twice", key, name)
	}
	seen[name] = true
	return nil
}

func (o *Options) validateProxies() (map[string]*ProxyOptions, error) {
	by, seen := map[string]*ProxyOptions{}, map[string]bool{}
	for i := range o.Proxies {
		p, key := &o.Proxies[i], fmt.Sprintf("proxies[%d].", i)
		if err := checkName(key+"name", p.Name, seen); err != nil {
			return nil, err
		}
		by[p.Name] = p
		if err := p.validate(); err != nil {
			return nil, fmt.Errorf("%s%w", key, err)
		}
	}
	return by, nil
}

func (p *ProxyOptions) validate() error {
	kind := p.kind()
	if !slices.Contains([]string{KindGodwit, KindHAProxy, KindSOCKS5, KindDirect}, kind) {
		return fmt.Errorf("kind: %q is not godwit, haproxy, socks5 or direct", p.Kind)
	}
	if kind == KindDirect {
		if p.Address != "" {
			return errors.New("address: direct has none")
		}
	} else if _, port, err := net.SplitHostPort(p.Address); err != nil || port == "" {
		return fmt.Errorf("address: %q is not host:port", p.Address)
	}
	switch {
	case p.TLS != (TLS{}) && kind != KindGodwit:
		return errors.New("tls: only for kind godwit")
	case p.TLS != (TLS{}) && p.TLS.CAFile == "":
		return errors.New("tls.ca_file: is needed for TLS")
	case (p.TLS.CertFile == "") != (p.TLS.KeyFile == ""):
		return errors.New("tls.cert_file: must be set together with tls.key_file")
	case (p.Username != "" || p.PasswordFile != "") && kind != KindSOCKS5:
		return errors.New("username: only for kind socks5")
	case (p.Username == "") != (p.PasswordFile == ""):
		return errors.New("username: must be set together with password_file")
	}
	return nil
}

func (o *Options) validateWarmups() error {
	seen := map[string]bool{}
	for i, w := range o.Warmups {
		key := fmt.Sprintf("warmups[%d].", i)
		if err := checkName(key+"name", w.Name, seen); err != nil {
			return err
		}
		if w.Start.t.IsZero() {
			return fmt.Errorf("%sstart: is needed", key)
		}
		if err := checkDays(key+"days", w.Days); err != nil {
			return err
		}
		for _, p := range slices.Sorted(maps.Keys(w.Providers)) {
			if err := checkDays(key+"providers."+p, w.Providers[p]); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkDays(key string, days []int64) error {
	for i, n := range days {
		if n <= 0 {
			return fmt.Errorf("%s[%d]: must be more than 0", key, i)
		}
	}
	return nil
}

func (o *Options) validateSources(proxies map[string]*ProxyOptions) error {
	seen := map[string]bool{}
	for i := range o.Sources {
		s, key := &o.Sources[i], fmt.Sprintf("sources[%d].", i)
		if err := checkName(key+"name", s.Name, seen); err != nil {
			return err
		}
		kind := KindDirect
		if s.Proxy != "" {
			p := proxies[s.Proxy]
			if p == nil {
				return fmt.Errorf("%sproxy: there is no proxy %s", key, s.Proxy)
			}
			kind = p.kind()
		}
		if (kind == KindGodwit || kind == KindHAProxy) && s.Bind == "" && s.Bind6 == "" {
			return fmt.Errorf("%sbind: is needed, a %s proxy chooses by it", key, kind)
		}
		if err := s.validate(); err != nil {
			return fmt.Errorf("%s%w", key, err)
		}
		if s.Warmup != "" && !slices.ContainsFunc(o.Warmups, func(w Warmup) bool { return w.Name == s.Warmup }) {
			return fmt.Errorf("%swarmup: there is no schedule %s", key, s.Warmup)
		}
	}
	return nil
}

func (s *Source) validate() error {
	for _, f := range []struct {
		key, text string
		v4, v6    bool
	}{{"bind", s.Bind, true, false}, {"bind6", s.Bind6, false, true}, {"public", s.Public, true, true}} {
		if f.text == "" {
			continue
		}
		a, err := netip.ParseAddr(f.text)
		if err != nil || a.IsUnspecified() || a.Is4In6() || a.Zone() != "" || a.Is4() && !f.v4 || a.Is6() && !f.v6 {
			return fmt.Errorf("%s: %q is not an address of its family", f.key, f.text)
		}
	}
	if strings.ContainsFunc(s.EHLO, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("ehlo: %q is not a host name", s.EHLO)
	}
	return nil
}

func (o *Options) validatePools() error {
	names, seen := map[string]string{}, map[string]bool{}
	for i, p := range o.Pools {
		key := fmt.Sprintf("pools[%d].", i)
		if err := checkName(key+"name", p.Name, seen); err != nil {
			return err
		}
		names[p.Name] = p.Fallback
		if len(p.Sources) == 0 {
			return fmt.Errorf("%ssources: a pool needs one", key)
		}
		listed := map[string]bool{}
		for j, m := range p.Sources {
			key := fmt.Sprintf("%ssources[%d].", key, j)
			switch {
			case !slices.ContainsFunc(o.Sources, func(s Source) bool { return s.Name == m.Name }):
				return fmt.Errorf("%sname: there is no source %q", key, m.Name)
			case listed[m.Name]:
				return fmt.Errorf("%sname: %s is listed twice", key, m.Name)
			case m.Weight < 0 || m.Weight > maxWeight:
				return fmt.Errorf("%sweight: must be 0 to %d", key, maxWeight)
			}
			listed[m.Name] = true
		}
	}
	if len(o.Pools) == 0 && len(o.Sources) > 0 {
		names[DefaultPool] = ""
	}
	if _, ok := names[DefaultPool]; !ok && len(o.Pools) > 0 {
		return errors.New("pools: one named default is needed, for messages that match no rule")
	}
	if err := o.validateFallbacks(names); err != nil {
		return err
	}
	for i, c := range o.Choose {
		if _, ok := names[c.Pool]; !ok {
			return fmt.Errorf("choose[%d].pool: there is no pool %q", i, c.Pool)
		}
		if name, _, ok := strings.Cut(c.Tag, "="); c.Tag != "" && (!ok || name == "") {
			return fmt.Errorf("choose[%d].tag: %q is not name=value", i, c.Tag)
		}
	}
	return nil
}

// validateFallbacks takes the fallback of each pool by name.
func (o *Options) validateFallbacks(names map[string]string) error {
	for i, p := range o.Pools {
		if _, ok := names[p.Fallback]; !ok && p.Fallback != "" {
			return fmt.Errorf("pools[%d].fallback: there is no pool %s", i, p.Fallback)
		}
		steps := 0
		for next := p.Fallback; next != ""; next = names[next] {
			if steps++; next == p.Name || steps > len(o.Pools) {
				return fmt.Errorf("pools[%d].fallback: leads back to %s", i, next)
			}
		}
	}
	return nil
}
