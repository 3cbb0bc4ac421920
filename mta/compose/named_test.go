package compose

import (
	"bytes"
	"testing"

	"github.com/godwit-mta/godwit/internal/mail"
)

// TestNamedRecipient: the name that came with a recipient stands in To, as it is.
func TestNamedRecipient(t *testing.T) {
	for _, templates := range []bool{false, true} {
		content := mail.Content{From: "news@example.com", Subject: "s", Text: "t", Templates: templates}
		r := rendering{m: &mail.Message{Recipient: "joe@example.org", Substitutions: []byte(`{"_to":"\"J. Doe\" <joe@example.org>"}`)},
			c: &Composer{deps: Deps{Hostname: "h.test"}}, plain: !templates}
		head, err := r.contentHeader(nil, &content)
		if err != nil {
			t.Fatal(err)
		}
		if want := []byte("To: \"J. Doe\" <joe@example.org>\r\n"); !bytes.Contains(head, want) {
			t.Errorf("templates %v: header %q lacks %q", templates, head, want)
		}
	}
}
