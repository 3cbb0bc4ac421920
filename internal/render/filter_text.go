package render

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// of makes a filter of a plain text function.
func of(f func(string) string) func(*run, any, any) (any, error) {
	return func(_ *run, in, _ any) (any, error) { return f(text(in)), nil }
}

func textFilters() []filter {
	return []filter{
		{name: "addslashes", text: true, safe: true, fn: of(func(s string) string {
			return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `'`, `\'`).Replace(s)
		})},
		{name: "capfirst", text: true, safe: true, fn: of(capitalize)},
		{name: "cut", arg: needsArg, text: true, fn: cut},
		{name: "lower", text: true, safe: true, fn: of(strings.ToLower)},
		{name: "upper", text: true, fn: of(upper)},
		{name: "title", text: true, safe: true, fn: of(titleFilter)},
		{name: "slugify", text: true, safe: true, fn: of(slugify)},
		{name: "phone2numeric", safe: true, fn: phone2numeric},
		{name: "wordcount", text: true, fn: func(_ *run, in, _ any) (any, error) {
			return int64(len(strings.Fields(text(in)))), nil
		}},
		{name: "make_list", text: true, fn: func(r *run, in, _ any) (any, error) { return r.chars(text(in)) }},
		{name: "truncatechars", arg: needsArg, text: true, safe: true, fn: truncatechars},
		{name: "truncatewords", arg: needsArg, text: true, safe: true, fn: truncatewords},
		{name: "truncatechars_html", arg: needsArg, text: true, safe: true, fn: truncatecharsHTML},
		{name: "truncatewords_html", arg: needsArg, text: true, safe: true, fn: truncatewordsHTML},
	}
}

func runes(s string) int { return utf8.RuneCountInString(s) }

// upper is Python's upper(), which knows the one letter in common use whose
// capital has two.
func upper(s string) string {
	return strings.ToUpper(strings.ReplaceAll(s, "ß", "SS"))
}

// capitalize makes the first character a capital and leaves the others.
func capitalize(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return upper(s[:n]) + s[n:]
}

// titleCase is Python's title(): a capital behind every character that is no letter.
func titleCase(s string) string {
	var b strings.Builder
	letter := false
	for _, c := range s {
		switch {
		case letter:
			b.WriteRune(unicode.ToLower(c))
		case c == 'ß':
			b.WriteString("Ss")
		default:
			b.WriteRune(unicode.ToTitle(c))
		}
		letter = unicode.IsLetter(c)
	}
	return b.String()
}

// titleFilter is titleCase without capitals behind an apostrophe or a digit.
func titleFilter(s string) string {
	t := []rune(titleCase(s))
	for i := 1; i < len(t); i++ {
		if t[i] < 'A' || t[i] > 'Z' {
			continue
		}
		apostrophe := i > 1 && t[i-1] == '\'' && t[i-2] >= 'a' && t[i-2] <= 'z'
		if apostrophe || unicode.IsDigit(t[i-1]) {
			t[i] = unicode.ToLower(t[i])
		}
	}
	return string(t)
}

// slugify keeps ASCII letters, digits, "_" and "-", accents removed; runs of
// spaces and hyphens become one hyphen.
func slugify(s string) string {
	var b strings.Builder
	gap := false
	for _, c := range norm.NFKD.String(s) {
		switch {
		case c == '_' || c == '-' || unicode.IsSpace(c) || c < 0x80 && (unicode.IsLetter(c) || unicode.IsDigit(c)):
		default:
			continue
		}
		if c >= 0x80 {
			continue
		}
		if c == '-' || unicode.IsSpace(c) {
			gap = true
			continue
		}
		if gap && b.Len() > 0 {
			b.WriteByte('-')
		}
		gap = false
		b.WriteRune(unicode.ToLower(c))
	}
	return strings.Trim(b.String(), "-_")
}

func phone2numeric(_ *run, in, _ any) (any, error) {
	if !isText(in) {
		return nil, errType
	}
	const keys = "22233344455566677778889999"
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' {
			return rune(keys[c-'a'])
		}
		return c
	}, strings.ToLower(text(in))), nil
}

func cut(_ *run, in, arg any) (any, error) {
	if !isText(arg) {
		return nil, errType
	}
	s := text(in)
	if a := text(arg); a != "" {
		s = strings.ReplaceAll(s, a, "")
	}
	// Without its ";" an entity would be open to what follows.
	if _, ok := in.(safe); ok && text(arg) != ";" {
		return safe(s), nil
	}
	return s, nil
}

const ellipsis = "…"

// limit reads the argument of a truncating filter; ok is false for a text that
// is no number, which leaves the value as it is.
func limit(arg any) (n int, ok bool, err error) {
	i, err := toInt(arg)
	if err == errValue {
		return 0, false, nil
	}
	return int(min(max(i, -1), 1<<30)), true, err
}

func truncatechars(_ *run, in, arg any) (any, error) {
	n, ok, err := limit(arg)
	if !ok || err != nil {
		return in, err
	}
	s := norm.NFC.String(text(in))
	cutAt, seen := -1, 0
	for i, c := range s {
		if unicode.Is(unicode.Mn, c) {
			continue
		}
		seen++
		if cutAt < 0 && seen > n-1 {
			cutAt = i
		}
		if seen > n {
			return s[:max(cutAt, 0)] + ellipsis, nil
		}
	}
	return s, nil
}

func truncatewords(_ *run, in, arg any) (any, error) {
	n, ok, err := limit(arg)
	if !ok || err != nil {
		return in, err
	}
	words := strings.Fields(text(in))
	if len(words) <= n {
		return strings.Join(words, " "), nil
	}
	if n < 0 {
		n = max(0, len(words)+n)
	}
	s := strings.Join(words[:n], " ")
	if strings.HasSuffix(s, " "+ellipsis) {
		return s, nil
	}
	return s + " " + ellipsis, nil
}
