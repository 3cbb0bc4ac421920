package compose

import (
	"context"

	"github.com/godwit-mta/godwit/internal/mail"
)

// composeRaw sends a complete message as it is; only an 8-bit body is converted.
func (c *Composer) composeRaw(ctx context.Context, m *mail.Message) (*mail.Composed, error) {
	data, release, err := c.deps.Bodies.Body(ctx, m)
	if err != nil {
		return nil, deferred("the body cannot be read now", err)
	}
	w := c.get()
	header, body := splitMessage(data)
	composed, err := c.finishRaw(m, w, header, body, release)
	if err != nil {
		c.put(w)
		if release != nil {
			release()
		}
		return nil, err
	}
	return composed, nil
}

// finishRaw converts a message to 7 bits where that is needed and possible, and
// signs it. The flag of the stored body is not relied on: a client may send 8-bit
// bytes without declaring them.
func (c *Composer) finishRaw(m *mail.Message, w *work, header, body []byte, release func()) (*mail.Composed, error) {
	eightBit := !ascii(header) || !ascii(body)
	if eightBit {
		converted, result := c.convert(header, body)
		c.metrics.conversion.WithLabelValues(result).Inc()
		if result == resultConverted {
			header, body = splitMessage(converted)
			eightBit = false
		}
	}
	return c.finish(m, w, eightBit, header, &w.digest, release, body)
}

// The results of convert, as they are counted.
const (
	resultConverted = "converted"
	resultSigned    = "signed"
	resultPassed    = "passed"
	resultMalformed = "malformed"
)

// convert makes a message 7-bit safe unless that would break a signature of its
// author.
func (c *Composer) convert(header, body []byte) ([]byte, string) {
	if c.opts.EightBit == eightBitPass {
		return nil, resultPassed
	}
	if hasField(header, "dkim-signature") {
		return nil, resultSigned
	}
	converted, ok := sevenBit(header, body)
	if !ok {
		return nil, resultMalformed
	}
	return converted, resultConverted
}
