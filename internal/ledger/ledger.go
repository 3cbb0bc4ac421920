// Package ledger holds what the load source and the provider simulator each
// remember on their own, and compares the two.
//
// A delivery engine's own books cannot prove that it lost nothing. So the
// source writes down every id that was acknowledged to it (an Ack) and the
// simulator every 250 that it gave to a final dot (a Delivery), each with a
// digest of the body. Both keep a Book; Reconcile then says what is missing,
// altered, duplicated or unexpected.
//
// The file format is described in docs/formats/ledger.md.
package ledger

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Nanos is an instant in Unix nanoseconds. Zero means not known. As text it is RFC 3339 with nanoseconds.
type Nanos int64

// Now is the present instant.
func Now() Nanos { return Nanos(time.Now().UnixNano()) }

// Time is the same instant as a time.Time; the zero time for zero.
func (n Nanos) Time() time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n))
}

// Sub is the duration n-m.
func (n Nanos) Sub(m Nanos) time.Duration { return time.Duration(n - m) }

// String is the text form, "" for zero.
func (n Nanos) String() string {
	if n == 0 {
		return ""
	}
	return n.Time().UTC().Format(time.RFC3339Nano)
}

// MarshalText implements encoding.TextMarshaler.
func (n Nanos) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Nanos) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*n = 0
		return nil
	}
	t, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return fmt.Errorf("ledger: bad time: %w", err)
	}
	*n = Nanos(t.UnixNano())
	return nil
}

// Sum is the first 16 bytes of the SHA-256 of a message's body: every byte
// after the blank line, without dot-stuffing. Zero means not computed.
type Sum [16]byte

// IsZero reports whether the sum was never computed.
func (s Sum) IsZero() bool { return s == Sum{} }

// String is the hexadecimal form, "" for zero.
func (s Sum) String() string {
	if s.IsZero() {
		return ""
	}
	return hex.EncodeToString(s[:])
}

// MarshalText implements encoding.TextMarshaler.
func (s Sum) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Sum) UnmarshalText(b []byte) error {
	*s = Sum{}
	if len(b) == 0 {
		return nil
	}
	if n, err := hex.Decode(s[:], b); err != nil || n != len(s) {
		return fmt.Errorf("ledger: %q is not a body sum", b)
	}
	return nil
}

// Ack is one copy that the engine took responsibility for: the 250 to the
// final dot, or the 202 to an API request, arrived at the source.
type Ack struct {
	At    Nanos `json:"at"`    // the acknowledgement was read
	Began Nanos `json:"began"` // MAIL, or the request, was sent
	// Key is what the copy can be recognised by at the other end: the load id
	// by SMTP, the message id by HTTP. Copies of one transaction share it.
	Key       string `json:"key"`
	ID        string `json:"id,omitempty"` // the message id that the engine answered
	Recipient string `json:"recipient"`
	Sum       Sum    `json:"sum,omitzero"` // of what was sent; zero when the engine composes the body
	Size      int64  `json:"size"`         // of the whole message
}

// Delivery is one copy that the simulator answered 250 for. It is written
// down before the reply leaves, so a reply that was seen is always on record.
type Delivery struct {
	At          Nanos  `json:"at"`  // just before the 250
	Key         string `json:"key"` // X-Load-Id, else the Message-ID without its brackets
	Recipient   string `json:"recipient"`
	ReversePath string `json:"reverse_path"`
	Peer        string `json:"peer"` // address of the client
	Provider    string `json:"provider"`
	Sum         Sum    `json:"sum,omitzero"`
	Size        int64  `json:"size"` // of the whole message, without dot-stuffing
}

// MatchKey is the form in which keys are compared: the part before the @, in
// lower case, so that a Message-ID matches the message id it was made from.
func MatchKey(key string) string {
	key = strings.Trim(key, "<> \t")
	if at := strings.LastIndexByte(key, '@'); at >= 0 {
		key = key[:at]
	}
	return strings.ToLower(key)
}
