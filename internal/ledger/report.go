package ledger

import (
	"fmt"
	"io"
	"strings"
)

const listed = 10 // entries of each kind that the text form shows

// String is one line with the numbers.
func (r *Report) String() string {
	return fmt.Sprintf("acked %d, delivered %d, settled %d, missing %d, altered %d, duplicates %d (%d surplus deliveries), unknown %d",
		r.Acked, r.Delivered, len(r.Settled), len(r.Missing), len(r.Altered), len(r.Duplicates), r.Surplus(), len(r.Unknown))
}

// WriteText writes the numbers and the first few entries of each finding, for people. JSON of the Report has them all.
func (r *Report) WriteText(w io.Writer) error {
	var s strings.Builder
	fmt.Fprintln(&s, r)
	section(&s, "missing", r.Missing, func(a Ack) string {
		return fmt.Sprintf("%s <%s> id %s acknowledged %s", a.Key, a.Recipient, a.ID, a.At)
	})
	section(&s, "altered", r.Altered, func(a Altered) string {
		return fmt.Sprintf("%s <%s> sent %s (%d bytes), arrived %s (%d bytes) %s",
			a.Ack.Key, a.Ack.Recipient, a.Ack.Sum, a.Ack.Size, a.Delivery.Sum, a.Delivery.Size, a.Delivery.At)
	})
	section(&s, "duplicate", r.Duplicates, func(d Duplicate) string {
		return fmt.Sprintf("%s <%s> at %v", d.Key, d.Recipient, d.Times)
	})
	section(&s, "unknown", r.Unknown, func(d Delivery) string {
		return fmt.Sprintf("%s <%s> at %s", d.Key, d.Recipient, d.At)
	})
	_, err := io.WriteString(w, s.String())
	return err
}

func section[T any](s *strings.Builder, name string, list []T, line func(T) string) {
	for i, e := range list {
		if i == listed {
			fmt.Fprintf(s, "  %s: and %d more\n", name, len(list)-listed)
			return
		}
		fmt.Fprintf(s, "  %s: %s\n", name, line(e))
	}
}
