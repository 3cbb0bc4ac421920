package mail

// Content is a message in parts, as the HTTP API takes it. Texts may hold
// template tags. Stored as JSON in a Body of kind BodyContent; compose builds
// the MIME message from it, the same bytes at each attempt.
type Content struct {
	From        string       `json:"from"`               // header form: Name <local@domain>
	ReplyTo     string       `json:"reply_to,omitempty"` // header form
	To          string       `json:"to,omitempty"`       // header form; the recipient's address when empty
	Subject     string       `json:"subject"`
	Text        string       `json:"text,omitempty"`
	HTML        string       `json:"html,omitempty"`
	AMP         string       `json:"amp,omitempty"`
	Headers     []Header     `json:"headers,omitempty"` // extra ones, in order
	Attachments []Attachment `json:"attachments,omitempty"`
	// Templates is false when no text holds a template tag: nothing is rendered.
	Templates bool `json:"templates"`
}

// Header is one header field; the value is UTF-8 and is encoded by compose.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Attachment is a file. One with a ContentID is inline (multipart/related).
type Attachment struct {
	Name      string `json:"name"`
	Type      string `json:"type"` // media type
	ContentID string `json:"content_id,omitempty"`
	Data      []byte `json:"data"` // base64 in JSON
}
