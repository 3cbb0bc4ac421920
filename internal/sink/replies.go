package sink

import (
	"fmt"
	"strconv"
	"strings"
)

// reply is one SMTP reply. Lines of text are separated by line feeds.
type reply struct {
	code     int
	enhanced string // such as 4.7.1; may be empty
	text     string
}

func (r reply) temporary() bool { return r.code >= 400 && r.code < 500 }
func (r reply) permanent() bool { return r.code >= 500 }

// append writes the reply in wire form (RFC 5321 §4.2.1, RFC 2034 §4: the enhanced code stands on every line).
func (r reply) append(b []byte, enhanced bool) []byte {
	for rest, more := r.text, true; more; {
		var line string
		line, rest, more = strings.Cut(rest, "\n")
		b = strconv.AppendInt(b, int64(r.code), 10)
		if more {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
		}
		if enhanced && r.enhanced != "" {
			b = append(b, r.enhanced...)
			b = append(b, ' ')
		}
		b = append(b, line...)
		b = append(b, "\r\n"...)
	}
	return b
}

// parseReply reads "451 4.7.1 text"; the enhanced code may be absent, "\n" in the text separates lines.
func parseReply(s string) (reply, error) {
	code, text, _ := strings.Cut(s, " ")
	n, err := strconv.Atoi(code)
	if err != nil || n < 200 || n > 599 {
		return reply{}, fmt.Errorf("%q does not begin with a reply code", s)
	}
	r := reply{code: n, text: text}
	if first, rest, _ := strings.Cut(text, " "); isEnhanced(first) {
		r.enhanced, r.text = first, rest
	}
	if strings.ContainsRune(r.text, '\r') {
		return reply{}, fmt.Errorf("%q holds a CR", s)
	}
	return r, nil
}

func isEnhanced(s string) bool {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(parts[0]) != 1 {
		return false
	}
	for _, p := range parts {
		if n, err := strconv.Atoi(p); err != nil || n < 0 || n > 999 {
			return false
		}
	}
	return true
}

// texts is how one provider words its replies.
type texts struct{ deferred, bounced, limited, connections []reply }

func textNames() []string { return []string{"generic", "gmail", "outlook", "yahoo"} }

// textsOf returns the wording of a provider; classifiers and backoff rules
// want to be tried with what they will meet.
func textsOf(name string) texts {
	switch name {
	case "gmail":
		return gmailTexts()
	case "outlook":
		return outlookTexts()
	case "yahoo":
		return yahooTexts()
	}
	return texts{
		deferred:    []reply{{451, "4.3.0", "Temporary failure, please try again later"}},
		bounced:     []reply{{550, "5.1.1", "No such user here"}},
		limited:     []reply{{451, "4.7.1", "Rate limit exceeded, slow down"}},
		connections: []reply{{421, "4.7.0", "Too many connections, try again later"}},
	}
}

func gmailTexts() texts {
	return texts{
		deferred: []reply{
			{450, "4.2.1", "The user you are trying to contact is receiving mail at a rate that\nprevents additional messages from being delivered. Please resend your\nmessage at a later time. - gsmtp"},
			{452, "4.2.2", "The recipient's inbox is out of storage space. Please direct the\nrecipient to clear space. - gsmtp"},
		},
		bounced: []reply{
			{550, "5.1.1", "The email account that you tried to reach does not exist. Please try\ndouble-checking the recipient's email address for typos or\nunnecessary spaces. - gsmtp"},
			{550, "5.2.1", "The email account that you tried to reach is inactive. - gsmtp"},
		},
		limited:     []reply{{421, "4.7.28", "Gmail has detected an unusual rate of unsolicited mail originating\nfrom your IP address. To protect our users from spam, mail sent from\nyour IP address has been temporarily rate limited. - gsmtp"}},
		connections: []reply{{421, "4.7.0", "Try again later, closing connection. - gsmtp"}},
	}
}

func outlookTexts() texts {
	return texts{
		deferred: []reply{{451, "4.7.500", "Server busy. Please try again later from [127.0.0.1]. (S77719)"}},
		bounced: []reply{
			{550, "5.5.0", "Requested action not taken: mailbox unavailable (S2017062302)."},
			{550, "5.4.1", "Recipient address rejected: Access denied."},
		},
		limited:     []reply{{451, "4.7.650", "The mail server [127.0.0.1] has been temporarily rate limited due to IP reputation. (S775)"}},
		connections: []reply{{421, "4.3.2", "The maximum number of concurrent server connections has exceeded a limit, closing transmission channel"}},
	}
}

func yahooTexts() texts {
	return texts{
		deferred:    []reply{{421, "4.7.0", "[TSS04] Messages from 127.0.0.1 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1"}},
		bounced:     []reply{{554, "", "delivery error: dd This user doesn't have an account (user@example.test) [0]"}},
		limited:     []reply{{451, "4.7.1", "[TSS11] Message from 127.0.0.1 temporarily deferred - 4.16.56.1"}},
		connections: []reply{{421, "4.7.0", "[TSS09] Too many concurrent connections from 127.0.0.1; retry later"}},
	}
}
