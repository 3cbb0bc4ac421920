package render

import (
	"fmt"
	"html"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

func urlFilters() []filter {
	return []filter{
		{name: "urlencode", arg: mayArg, text: true, fn: urlencode},
		{name: "iriencode", text: true, safe: true, fn: of(func(s string) string {
			return percent(s, "/#%[]=:;$&()+,!?*@'~")
		})},
		{name: "urlize", text: true, safe: true, fn: func(r *run, in, _ any) (any, error) {
			return urlize(r, in, -1)
		}},
		{name: "urlizetrunc", arg: needsArg, text: true, safe: true, fn: func(r *run, in, arg any) (any, error) {
			n, err := toInt(arg)
			if err != nil {
				return nil, err
			}
			return urlize(r, in, int(max(n, 0)))
		}},
	}
}

func urlencode(_ *run, in, arg any) (any, error) {
	keep := "/"
	if _, ok := arg.(absent); !ok {
		if !isText(arg) {
			return nil, errType
		}
		keep = text(arg)
	}
	return percent(text(in), keep), nil
}

// percent escapes every byte for a URL except letters, digits, "_.-~" and keep.
func percent(s, keep string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c < 0x80 && (isAlnum(c) || strings.IndexByte("_.-~", c) >= 0 || strings.IndexByte(keep, c) >= 0) {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

func isAlnum(c byte) bool {
	return isDigit(c) || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// linkPatterns recognise what urlize makes a link of. They run on words of at
// most maxURL bytes.
var (
	urlWithScheme = regexp.MustCompile(`(?i)^https?://\[?[\pL\pN_]`)
	urlWithout    = regexp.MustCompile(`(?i)^www\.|^[\pL\pN_][^@]+\.(com|edu|gov|int|mil|net|org)($|/.*)$`)
)

const maxURL = 2048

// urlize makes links of the URLs and addresses in a text. limit shortens what a
// link shows to so many characters, unless negative.
func urlize(r *run, in any, limit int) (any, error) {
	s, escaping := text(in), r.escaping(in)
	e := expand{r: r}
	for s != "" {
		n := strings.IndexFunc(s, wordBreak)
		if n == 0 {
			n = strings.IndexFunc(s, func(c rune) bool { return !wordBreak(c) })
		}
		if n < 0 {
			n = len(s)
		}
		w := s[:n]
		s = s[n:]
		if err := r.tick(len(w) / 64); err != nil {
			return nil, err
		}
		if link := linkOf(w, escaping, limit); link != "" {
			w = link
		} else if escaping {
			w = escape(w)
		}
		if !e.add(w) {
			break
		}
	}
	return safe(e.b.String()), e.err
}

func wordBreak(c rune) bool { return unicode.IsSpace(c) || strings.ContainsRune(`<>"'`, c) }

// linkOf returns the HTML of a word that is a link, else "".
func linkOf(w string, escaping bool, limit int) string {
	if len(w) > maxURL+64 || !strings.ContainsAny(w, ".@:") {
		return ""
	}
	lead, middle, trail := trimPunctuation(w)
	target, rel := "", ` rel="nofollow"`
	switch {
	case len(middle) <= maxURL && urlWithScheme.MatchString(middle):
		target = quoteURL(html.UnescapeString(middle))
	case len(middle) <= maxURL && isBareURL(middle):
		target = quoteURL("http://" + html.UnescapeString(middle))
	case !strings.Contains(middle, ":") && isAddress(middle):
		local, domain, _ := strings.Cut(middle, "@")
		ascii, err := idna.ToASCII(domain)
		if err != nil {
			return ""
		}
		target, rel = "mailto:"+local+"@"+ascii, ""
	default:
		return ""
	}
	shown := shorten(middle, limit)
	if escaping {
		lead, trail, shown = escape(lead), escape(trail), escape(shown)
	}
	return lead + `<a href="` + escape(target) + `"` + rel + `>` + shown + `</a>` + trail
}

func isBareURL(s string) bool {
	if len(s) >= 4 && strings.EqualFold(s[:4], "http") {
		return false
	}
	return urlWithout.MatchString(s)
}

func shorten(s string, limit int) string {
	if limit < 0 || runes(s) <= limit {
		return s
	}
	return string([]rune(s)[:max(0, limit-1)]) + ellipsis
}

func isAddress(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	if !ok || local == "" || strings.Contains(domain, "@") || len(domain) > 63 {
		return false
	}
	return strings.Contains(domain, ".") && !strings.HasPrefix(domain, ".")
}

// trimPunctuation splits brackets and punctuation around a word from it; a
// closing bracket stays when it is balanced.
func trimPunctuation(w string) (lead, middle, trail string) {
	middle = w
	for again := true; again; {
		again = false
		for _, pair := range [...]string{"()", "[]"} {
			open, shut := pair[:1], pair[1:]
			if strings.HasPrefix(middle, open) {
				middle, lead, again = middle[1:], lead+open, true
			}
			if strings.HasSuffix(middle, shut) && strings.Count(middle, shut) == strings.Count(middle, open)+1 {
				middle, trail, again = middle[:len(middle)-1], shut+trail, true
			}
		}
		plain := html.UnescapeString(middle)
		if cut := len(plain) - len(strings.TrimRight(plain, ".,:;!")); cut > 0 && cut <= len(middle) {
			keep := len(middle) - cut
			middle, trail, again = middle[:keep], middle[keep:]+trail, true
		}
	}
	return lead, middle, trail
}

// quoteURL escapes what a URL may not hold, but nothing twice.
func quoteURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return quotePart(s)
	}
	scheme, rest, _ := strings.Cut(s, "://")
	host, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		host, tail = rest[:i], rest[i:]
	}
	tail, fragment, hasFragment := strings.Cut(tail, "#")
	path, query, hasQuery := strings.Cut(tail, "?")
	if ascii, err := idna.ToASCII(host); err == nil {
		host = ascii
	}
	out := strings.ToLower(scheme) + "://" + host + quotePart(path)
	if hasQuery && u.RawQuery != "" {
		out += "?" + quoteQuery(query)
	}
	if hasFragment && fragment != "" {
		out += "#" + quotePart(fragment)
	}
	return out
}

func quotePart(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		s = plain
	}
	return percent(s, "!$&'()*+,;=:/?#[]@~")
}

func quoteQuery(q string) string {
	parts := strings.Split(q, "&")
	kept := parts[:0]
	for _, p := range parts {
		if p == "" {
			continue
		}
		k, v, _ := strings.Cut(p, "=")
		kept = append(kept, quoteForm(k)+"="+quoteForm(v))
	}
	return strings.Join(kept, "&")
}

func quoteForm(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		s = plain
	}
	return strings.ReplaceAll(percent(s, " "), " ", "+")
}
