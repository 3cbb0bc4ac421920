package compose

import (
	"encoding/hex"
	"errors"
	"mime"
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-mta/godwit/internal/mail"
)

// node is a MIME entity of a content: a multipart with children, a text that
// varies, or bytes that are encoded already.
type node struct {
	contentType string // value of Content-Type, folded
	fields      string // further fields, each with CR LF
	boundary    string
	children    []*node
	text        *textPart // nil: encoded holds the body
	encoded     []byte
	encoding    string
}

// textPart is a text to be rendered.
type textPart struct {
	name   string // text, html or amp
	source string
	html   bool
}

// tree lays a content out as multipart/mixed > related > alternative, leaving out the
// levels that would have one part.
func tree(content *mail.Content, id mail.ID) (*node, error) {
	var bodies []*node
	for _, t := range []struct {
		contentType string
		part        textPart
	}{
		{"text/plain; charset=utf-8", textPart{name: "text", source: content.Text}},
		{"text/x-amp-html; charset=utf-8", textPart{name: "amp", source: content.AMP, html: true}},
		{"text/html; charset=utf-8", textPart{name: "html", source: content.HTML, html: true}}, // last: the richest (RFC 2046 §5.1.4)
	} {
		if t.part.source != "" {
			bodies = append(bodies, textNode(t.contentType, t.part, content.Templates))
		}
	}
	if len(bodies) == 0 {
		bodies = append(bodies, textNode("text/plain; charset=utf-8", textPart{name: "text"}, false))
	}
	var inline, attached []*node
	for i, a := range content.Attachments {
		n, err := attachmentNode(a)
		if err != nil {
			return nil, unrenderable("attachments[%d]: %s", i, err)
		}
		if a.ContentID != "" {
			inline = append(inline, n)
		} else {
			attached = append(attached, n)
		}
	}
	root := compound("alternative", 1, id, bodies...)
	root = compound("related", 2, id, append([]*node{root}, inline...)...)
	return compound("mixed", 3, id, append([]*node{root}, attached...)...), nil
}

// compound wraps several parts. The boundary comes from the body's id, so that
// messages that share the body share its encoded form; "=_" cannot occur in
// quoted-printable nor base64.
func compound(subtype string, level int, id mail.ID, children ...*node) *node {
	if len(children) == 1 {
		return children[0]
	}
	boundary := "=_" + strconv.Itoa(level) + "_" + hex.EncodeToString(id[:])
	extra := ""
	if subtype == "related" {
		first, _, _ := strings.Cut(children[0].contentType, ";")
		extra = ";\r\n type=\"" + first + `"` // RFC 2387 §3.1
	}
	return &node{
		contentType: "multipart/" + subtype + ";\r\n boundary=\"" + boundary + `"` + extra,
		boundary:    boundary,
		children:    children,
	}
}

func textNode(contentType string, part textPart, templates bool) *node {
	n := &node{contentType: contentType}
	if templates && hasTags(part.source) {
		n.text = &part
		return n
	}
	n.encode(crlfLines(part.source))
	return n
}

func (n *node) encode(data []byte) {
	n.encoding = chooseEncoding(data)
	n.encoded = appendEncoded(nil, data, n.encoding)
}

var errContentID = errors.New("content_id: must be printable ASCII without spaces and angle brackets")

func attachmentNode(a mail.Attachment) (*node, error) {
	n := &node{}
	media, params, err := mime.ParseMediaType(a.Type)
	if err != nil || strings.HasPrefix(media, "multipart/") || !strings.Contains(media, "/") {
		media, params = "application/octet-stream", nil
	}
	if strings.HasPrefix(media, "message/") {
		// These may not be encoded (RFC 2046 §5.2.1): only plain ones keep their type.
		if data := crlfLines(string(a.Data)); !needs(data) {
			n.encoded, n.encoding = data, sevenBitCTE
		} else {
			media, params = "application/octet-stream", nil
		}
	}
	if n.encoding == "" {
		n.encoded, n.encoding = appendBase64(nil, a.Data), base64CTE
	}
	name := fileName(a.Name)
	if name != "" {
		if params == nil {
			params = map[string]string{}
		}
		params["name"] = name
	}
	n.contentType = formatParams(media, params)
	disposition := "attachment"
	if a.ContentID != "" {
		disposition = "inline"
		id := strings.TrimSuffix(strings.TrimPrefix(a.ContentID, "<"), ">")
		if !validFieldName(strings.ReplaceAll(id, ":", "")) || strings.ContainsAny(id, "<>") {
			return nil, errContentID
		}
		n.fields = "Content-ID: <" + id + ">\r\n"
	}
	params = nil
	if name != "" {
		params = map[string]string{"filename": name}
	}
	n.fields += "Content-Disposition: " + formatParams(disposition, params) + "\r\n"
	return n, nil
}

// fileName bounds a file name so that its line, percent-encoded, fits.
func fileName(name string) string {
	const limit = 240
	name = strings.ToValidUTF8(name, "\uFFFD")
	if len(name) > limit {
		name = strings.ToValidUTF8(name[:limit], "")
	}
	return name
}

// formatParams writes a value with parameters, one to a line; what is not ASCII
// is encoded as RFC 2231 says.
func formatParams(value string, params map[string]string) string {
	names := make([]string, 0, len(params))
	for name := range params {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		one := mime.FormatMediaType("x", map[string]string{name: params[name]})
		if text, ok := strings.CutPrefix(one, "x; "); ok && len(text) < maxLine-10 {
			value += ";\r\n " + text
		}
	}
	return value
}

// varies reports whether the entity holds a text to be rendered.
func (n *node) varies() bool {
	return n.text != nil || slices.ContainsFunc(n.children, (*node).varies)
}

// size is the memory an entity takes.
func (n *node) size() int64 {
	size := int64(len(n.encoded) + len(n.contentType) + len(n.fields) + 256)
	if n.text != nil {
		size += int64(len(n.text.source))
	}
	for _, child := range n.children {
		size += child.size()
	}
	return size
}

// mimeWriter writes a tree: the root's fields to head, all else to out.
type mimeWriter struct {
	head []byte
	out  *builder
	text func(*textPart) ([]byte, error) // renders, with CR LF line ends
}

// node writes one entity.
func (w *mimeWriter) node(n *node, root bool) error {
	if n.children == nil {
		return w.leaf(n, root)
	}
	w.header(n, "", root)
	for _, child := range n.children {
		w.out.text("--", n.boundary, "\r\n")
		if err := w.node(child, false); err != nil {
			return err
		}
		w.out.text("\r\n")
	}
	w.out.text("--", n.boundary, "--\r\n")
	return nil
}

// leaf writes an entity without parts. The root's last line gets its line end; a
// part's belongs to the delimiter that follows.
func (w *mimeWriter) leaf(n *node, root bool) error {
	if n.text == nil {
		w.header(n, n.encoding, root)
		w.out.share(n.encoded)
	} else {
		data, err := w.text(n.text)
		if err != nil {
			return err
		}
		encoding := chooseEncoding(data)
		w.header(n, encoding, root)
		w.out.buf = appendEncoded(w.out.buf, data, encoding)
	}
	if root && !w.out.endsLine() {
		w.out.text("\r\n")
	}
	return nil
}

// header writes the MIME fields of an entity.
func (w *mimeWriter) header(n *node, encoding string, root bool) {
	parts := []string{"Content-Type: ", n.contentType, "\r\n"}
	if encoding != "" {
		parts = append(parts, "Content-Transfer-Encoding: ", encoding, "\r\n")
	}
	parts = append(parts, n.fields)
	if !root {
		w.out.text(parts...)
		w.out.text("\r\n")
		return
	}
	w.head = append(w.head, "MIME-Version: 1.0\r\n"...)
	for _, p := range parts {
		w.head = append(w.head, p...)
	}
}

// builder collects a body: small pieces in one buffer, large ones as they lie.
type builder struct {
	buf   []byte
	start int // of the segment being filled
	segs  [][]byte
}

// shareFrom is the size from which a piece is not copied.
const shareFrom = 8 << 10

func (b *builder) text(parts ...string) {
	for _, p := range parts {
		b.buf = append(b.buf, p...)
	}
}

// share adds bytes that stay unchanged.
func (b *builder) share(p []byte) {
	if len(p) < shareFrom {
		b.buf = append(b.buf, p...)
		return
	}
	b.cut()
	b.segs = append(b.segs, p)
}

// cut ends the segment in the buffer. A later append may move the buffer; the segment
// keeps the old one.
func (b *builder) cut() {
	if len(b.buf) > b.start {
		b.segs = append(b.segs, b.buf[b.start:len(b.buf):len(b.buf)])
		b.start = len(b.buf)
	}
}

func (b *builder) endsLine() bool {
	last := b.buf[b.start:]
	if len(last) == 0 && len(b.segs) > 0 {
		last = b.segs[len(b.segs)-1]
	}
	return len(last) > 0 && last[len(last)-1] == '\n'
}

func (b *builder) segments() [][]byte {
	b.cut()
	return b.segs
}

func (b *builder) reset() {
	clear(b.segs)
	b.buf, b.segs, b.start = b.buf[:0], b.segs[:0], 0
}
