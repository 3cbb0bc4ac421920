package httpd

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	netmail "net/mail"
	"slices"
	"strings"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/injectapi"
)

// KeyTo is the member of a row's substitutions that carries the recipient's
// To field, display name included, to compose. Templates cannot read it: a
// Django variable does not begin with an underscore.
const KeyTo = "_to"

// rows is the recipients of a request, sorted into good and refused.
type rows struct {
	given    []injectapi.Recipient
	kept     []accept.Recipient
	index    []int // of kept in the request
	rejected []injectapi.Rejected
}

// newRows checks the recipients one by one.
func newRows(in *injectapi.MessagesRequest, made content) *rows {
	r := &rows{given: in.Recipients, kept: make([]accept.Recipient, 0, len(in.Recipients)), index: make([]int, 0, len(in.Recipients))}
	shared := sortedTags(in.Tags)
	own := len(in.Recipients) > 1 || in.ContentID != "" || hasTags(in.Recipients[0].Name)
	for i := range in.Recipients {
		rcpt := &in.Recipients[i]
		row, bad := newRow(rcpt, in, made, shared, own)
		if bad != nil {
			bad.Index, bad.Recipient = i, rcpt.Address
			r.rejected = append(r.rejected, *bad)
			continue
		}
		r.kept = append(r.kept, row)
		r.index = append(r.index, i)
	}
	return r
}

func newRow(in *injectapi.Recipient, req *injectapi.MessagesRequest, made content, shared []mail.Tag, own bool) (accept.Recipient, *injectapi.Rejected) {
	row := accept.Recipient{Tags: shared}
	address, err := accept.CheckAddress(in.Address, true)
	if err != nil {
		return row, reject("address", injectapi.CodeInvalidAddress, peerText(err))
	}
	row.Address = address
	if code, detail := badLine(in.Name, maxName); code != "" {
		return row, reject("name", code, detail)
	}
	if in.SendAt != nil {
		row.NotBefore = *in.SendAt
	}
	if len(in.Tags) > 0 {
		if bad := rowTags(in.Tags); bad != nil {
			return row, bad
		}
		all := maps.Clone(req.Tags)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, in.Tags)
		row.Tags = sortedTags(all)
	}
	if key := reservedKey(in.Substitutions); key != "" {
		return row, reject("substitutions", wire.CodeInvalidValue, fmt.Sprintf("%s: a name must not begin with an underscore", key))
	}
	if len(in.Substitutions) > 0 && made.body.Kind == mail.BodyRaw {
		return row, reject("substitutions", injectapi.CodeConflictingFields, "the content is raw and has no templates")
	}
	row.Substitutions = rowSubstitutions(in, req, made, own)
	return row, nil
}

// rowSubstitutions is what is stored for a row: the shared variables below its
// own, and its To field where that cannot stand in the shared content. Nothing when nothing would be rendered.
func rowSubstitutions(in *injectapi.Recipient, req *injectapi.MessagesRequest, made content, own bool) []byte {
	var out wire.Object
	if made.templates {
		out = wire.Merge(req.Substitutions, in.Substitutions)
	}
	if in.Name != "" && own && made.toName {
		to := appendString([]byte(`{"`+KeyTo+`":`), display(*in))
		out = wire.Merge(out, append(to, '}'))
	}
	if len(out) <= len("{}") {
		return nil
	}
	return out
}

// display is a recipient as its To field shows it; empty when it has no name.
func display(r injectapi.Recipient) string {
	if r.Name == "" {
		return ""
	}
	local, domain, ok := cutAddress(r.Address)
	if !ok {
		return ""
	}
	// Only the quoting is wanted here: compose encodes what is not ASCII.
	if strings.ContainsFunc(r.Name, func(c rune) bool { return c >= 0x80 }) {
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(r.Name)
		return `"` + quoted + `" <` + local + "@" + domain + ">"
	}
	return (&netmail.Address{Name: r.Name, Address: local + "@" + domain}).String()
}

func cutAddress(s string) (local, domain string, ok bool) {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return "", "", false
	}
	return s[:at], strings.ToLower(s[at+1:]), true
}

func reject(field, code, message string) *injectapi.Rejected {
	return &injectapi.Rejected{Field: field, Code: code, Message: message}
}

func rowTags(tags map[string]string) *injectapi.Rejected {
	for _, t := range sortedTags(tags) {
		for _, text := range []string{t.Name, t.Value} {
			if code, detail := badLine(text, maxName); code != "" {
				return reject("tags", code, detail)
			}
		}
	}
	return nil
}

// sortedTags are the tags in order of their names, so that equal requests make equal messages.
func sortedTags(tags map[string]string) []mail.Tag {
	if len(tags) == 0 {
		return nil
	}
	out := make([]mail.Tag, 0, len(tags))
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, mail.Tag{Name: name, Value: tags[name]})
	}
	return out
}

// reservedKey is the first member whose name is kept for the engine; nearly always none is, at once.
func reservedKey(o wire.Object) string {
	if !bytes.Contains(o, []byte(`"_`)) && !bytes.Contains(o, []byte(`"\`)) {
		return ""
	}
	for key := range o.Members() {
		if name := wire.KeyName(key); strings.HasPrefix(name, "_") {
			return name
		}
	}
	return ""
}

func reserved(f *faults, pointer string, o wire.Object) {
	if key := reservedKey(o); key != "" {
		f.add(pointer+"/"+key, wire.CodeInvalidValue, "a name must not begin with an underscore")
	}
}

// addresses are those of the kept recipients.
func (r *rows) addresses() []string {
	out := make([]string, len(r.kept))
	for i := range r.kept {
		out[i] = r.kept[i].Address
	}
	return out
}

// drop moves the rows that the Injector refused over to the rejected ones.
func (r *rows) drop(bad []accept.RowError) {
	gone := make(map[int]bool, len(bad))
	for _, row := range bad {
		if row.Index < 0 || row.Index >= len(r.kept) || gone[row.Index] {
			continue
		}
		gone[row.Index] = true
		_, field, _ := strings.Cut(row.Error.Field, "].")
		out := reject(field, codeOf(row.Error), row.Error.Message)
		out.Index, out.Recipient = r.index[row.Index], r.given[r.index[row.Index]].Address
		r.rejected = append(r.rejected, *out)
	}
	slices.SortFunc(r.rejected, func(a, b injectapi.Rejected) int { return a.Index - b.Index })
	kept := 0
	for i := range r.kept {
		if !gone[i] {
			r.kept[kept], r.index[kept] = r.kept[i], r.index[i]
			kept++
		}
	}
	clear(r.kept[kept:])
	r.kept, r.index = r.kept[:kept], r.index[:kept]
}

// refused is the problem when the refused recipients fail the whole request:
// one is enough if it is strict, else when nobody is left.
func (r *rows) refused(strict bool) *wire.Problem {
	if len(r.rejected) == 0 || !strict && len(r.kept) > 0 {
		return nil
	}
	p := &wire.Problem{Status: http.StatusUnprocessableEntity}
	for _, bad := range r.rejected[:min(len(r.rejected), maxFaults)] {
		pointer := fmt.Sprintf("/recipients/%d", bad.Index)
		if bad.Field != "" {
			pointer += "/" + bad.Field
		}
		p.Errors = append(p.Errors, wire.Error{Code: bad.Code, Title: wire.Title(bad.Code), Detail: bad.Message,
			Pointer: pointer, Field: bad.Field})
	}
	return p
}
