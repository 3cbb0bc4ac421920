package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
)

// Status is what became of a request.
type Status uint8

// The statuses. Only Failed and TimedOut say something about the provider.
const (
	Connected  Status = iota
	Failed            // the provider's host refused, or the network does not lead there
	TimedOut          // the provider's host did not answer
	BadSource         // the proxy has no such source
	NoLease           // a lease is missing, was used before or has lapsed
	Draining          // the proxy is going away
	Busy              // the proxy has too many connections
	Local             // the proxy's machine: address not there, ports or descriptors used up
	BadRequest        // malformed, of another version, or to a port that is not allowed
)

var statusNames = [...]string{"connected", "failed", "timed_out", "bad_source", "no_lease", "draining", "busy", "local", "bad_request"}

// String is the name in metrics and logs.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status_%d", uint8(s))
}

// Answer is what the proxy says before it passes on the provider's first byte.
type Answer struct {
	Status Status
	// Errno is Linux's number of the error; 0: none.
	Errno syscall.Errno
	Took  time.Duration // for the connect
	Text  string        // for people; empty when connected, so that the answer has a fixed length
}

const (
	answerSize = 10
	maxText    = 255
)

// errAnswer is returned for bytes that are no answer.
var errAnswer = errors.New("wire: malformed answer")

// Append appends the answer to b.
func (a *Answer) Append(b []byte) []byte {
	text := a.Text
	if len(text) > maxText {
		text = text[:maxText]
	}
	b = append(b, Version, byte(a.Status))
	b = binary.BigEndian.AppendUint16(b, uint16(a.Errno))
	b = binary.BigEndian.AppendUint32(b, uint32(min(max(a.Took.Microseconds(), 0), 1<<32-1)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

// ReadAnswer reads exactly one answer: what follows is the provider's.
func ReadAnswer(r io.Reader) (Answer, error) {
	var b [answerSize + maxText]byte
	if _, err := io.ReadFull(r, b[:answerSize]); err != nil {
		return Answer{}, err
	}
	n := int(binary.BigEndian.Uint16(b[8:]))
	if b[0] != Version || n > maxText {
		return Answer{}, errAnswer
	}
	a := Answer{Status: Status(b[1]), Errno: syscall.Errno(binary.BigEndian.Uint16(b[2:])),
		Took: time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Microsecond}
	if n > 0 {
		text := b[answerSize : answerSize+n]
		if _, err := io.ReadFull(r, text); err != nil {
			return Answer{}, io.ErrUnexpectedEOF
		}
		a.Text = string(text)
	}
	return a, nil
}
