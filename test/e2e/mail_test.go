//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// takeMail makes the N-th copy for a recipient the message.
func (r *run) takeMail(args string) error {
	recipient, n, err := count(args)
	if err != nil {
		return err
	}
	mails := r.world.box.To(recipient)
	if len(mails) != n {
		return fmt.Errorf("the mailbox has %d copies for %s, not %d", len(mails), recipient, n)
	}
	if n > 0 {
		r.mail = mails[n-1]
	}
	return nil
}

func (r *run) sinkStep(args string) error {
	recipient, n, err := count(args)
	if err != nil {
		return err
	}
	if got := r.world.accepted(recipient); got != n {
		return fmt.Errorf("the simulator took %d copies for %s, not %d", got, recipient, n)
	}
	return nil
}

var errNoMail = errors.New("no message yet: use mail first")

// field looks at a header field: "NAME = TEXT", "~", "!~", "count N", "absent".
func (r *run) field(args string) error {
	if r.mail == nil {
		return errNoMail
	}
	name, condition := cut(args)
	values := map[string][]string(r.mail.Header())[textproto(name)]
	op, want := cut(condition)
	switch op {
	case "absent":
		op, want = "count", "0"
		fallthrough
	case "count":
		if strconv.Itoa(len(values)) != want {
			return fmt.Errorf("%s is there %d times, not %s: %q", name, len(values), want, values)
		}
		return nil
	}
	if len(values) == 0 {
		return fmt.Errorf("no field %s in %q", name, shorten(string(r.mail.Data)))
	}
	return r.compare(values[0], condition)
}

// textproto is the canonical form in which net/mail keeps names.
func textproto(name string) string {
	parts := strings.Split(strings.ToLower(name), "-")
	for i, p := range parts {
		if p != "" {
			parts[i] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "-")
}

func (r *run) textStep(args string) error {
	if r.mail == nil {
		return errNoMail
	}
	return r.compare(string(r.mail.Body()), args)
}

func (r *run) path(args string) error {
	if r.mail == nil {
		return errNoMail
	}
	if got := bracket(r.mail.ReversePath); got != bracket(strings.Trim(args, "<>")) {
		return fmt.Errorf("the reverse path is %s, not %s", got, args)
	}
	return nil
}

// original is what ORCPT told the mailbox.
func (r *run) original(args string) error {
	if r.mail == nil {
		return errNoMail
	}
	return r.compare(r.mail.Original, args)
}

// dkimStep has go-msgauth verify the message: "rsa:pass ed25519:pass", top signature first.
func (r *run) dkimStep(args string) error {
	if r.mail == nil {
		return errNoMail
	}
	got, err := verify(r.mail.Data, r.keys)
	if err != nil {
		return err
	}
	if strings.Join(got, " ") != args {
		return fmt.Errorf("signatures: %q, not %s, of %q", got, args, shorten(string(r.mail.Data)))
	}
	return nil
}

var algorithm = regexp.MustCompile(`(?is)^DKIM-Signature:.*?\ba=(\w+)-`)

func verify(message []byte, keys *rig.Keys) ([]string, error) {
	results, err := dkim.VerifyWithOptions(bytes.NewReader(message), &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		switch name {
		case "rsa._domainkey.sender.test":
			return []string{keys.RSARecord}, nil
		case "ed._domainkey.sender.test":
			return []string{keys.EdRecord}, nil
		}
		return nil, fmt.Errorf("no record %s", name)
	}})
	if err != nil {
		return nil, err
	}
	names := signatures(message)
	var out []string
	for i, v := range results {
		name := "?"
		if i < len(names) {
			name = names[i]
		}
		if v.Err != nil {
			out = append(out, name+":fail")
			continue
		}
		out = append(out, name+":pass")
	}
	return out, nil
}

// signatures are the algorithms of a message's signatures, from the top.
func signatures(message []byte) []string {
	header, _, _ := bytes.Cut(message, []byte("\r\n\r\n"))
	unfolded := regexp.MustCompile(`\r\n[ \t]+`).ReplaceAll(header, []byte(" "))
	var out []string
	for line := range strings.SplitSeq(string(unfolded), "\r\n") {
		if m := algorithm.FindStringSubmatch(line); m != nil {
			out = append(out, m[1])
		}
	}
	return out
}

// every checks many copies at once: "RCPT-REGEXP N TEMPLATE", the template in the words of regexp.Expand.
func (r *run) every(args string) error {
	expression, rest := cut(args)
	number, template := cut(rest)
	re, err := regexp.Compile("^(?:" + expression + ")$")
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, m := range r.world.box.Mails() {
		groups := re.FindStringSubmatchIndex(m.Recipient)
		if groups == nil {
			continue
		}
		if found[m.Recipient] {
			return fmt.Errorf("%s got two copies", m.Recipient)
		}
		found[m.Recipient] = true
		want := re.ExpandString(nil, template, m.Recipient, groups)
		if !bytes.Contains(m.Data, want) {
			return fmt.Errorf("the copy for %s lacks %q: %q", m.Recipient, want, shorten(string(m.Data)))
		}
	}
	if strconv.Itoa(len(found)) != number {
		return fmt.Errorf("%d recipients have a copy, not %s", len(found), number)
	}
	return nil
}
