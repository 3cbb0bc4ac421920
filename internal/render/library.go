package render

import "sync"

// library is what templates can name. It is built once and never changes.
type library struct {
	tags      map[string]tagFunc
	filters   map[string]*filter
	operators map[string]*operator
}

// tagFunc compiles one tag.
type tagFunc func(c *compiler, t *token, words []word) *Error

// argument says whether a filter takes one.
type argument uint8

const (
	noArg argument = iota
	mayArg
	needsArg
)

// filter is one filter. fn gets the value and the argument, which is absent{}
// when none was given.
type filter struct {
	name string
	arg  argument
	// text: the value is turned into a text before (Django's stringfilter).
	text bool
	// safe: safe text stays safe (Django's is_safe).
	safe bool
	fn   func(r *run, in, arg any) (any, error)
	// checkArg refuses a literal argument while compiling; may be nil.
	checkArg func(arg any) error
}

var theLibrary = sync.OnceValue(func() *library {
	lib := &library{tags: tags(), operators: operators(), filters: make(map[string]*filter)}
	for _, set := range [][]filter{
		textFilters(), htmlFilters(), urlFilters(), paddingFilters(), listFilters(), logicFilters(),
		numberFilters(), dateFilters(), humanizeFilters(), extraFilters(),
	} {
		for i := range set {
			lib.filters[set[i].name] = &set[i]
		}
	}
	return lib
})

// bannedTags are Django's and pongo2's tags that templates may not use, and why.
var bannedTags = map[string]string{
	"include":        "a template cannot read another one",
	"extends":        "a template cannot read another one",
	"import":         "a template cannot read another one",
	"ssi":            "a template cannot read files",
	"macro":          "macros can call themselves without end",
	"now":            "a message must be the same at each attempt; give the date as a variable",
	"lorem":          "it makes text without bound",
	"random":         "a message must be the same at each attempt",
	"debug":          "it shows all variables",
	"set":            "it is not Django's; use with",
	"url":            "a message has no URL configuration",
	"csrf_token":     "a message has no form to protect",
	"blocktrans":     "there are no translations",
	"blocktranslate": "there are no translations",
}

// bannedFilters are Django's filters that templates may not use, and why.
var bannedFilters = map[string]string{
	"random": "a message must be the same at each attempt",
	"pprint": "it is for debugging",
}
