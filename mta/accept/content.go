package accept

import (
	"context"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Content stores a body for later batches and returns its id and until when it
// can be referred to. Of body only Kind and Data are read, and Data is the Door's from
// now on. A raw message gets the same header processing as in Batch. The error is an *Error.
func (d *Door) Content(ctx context.Context, tenant string, body *mail.Body) (mail.ID, time.Time, error) {
	return d.contentOnce(ctx, tenant, body, nil)
}

// ContentOnce is Content with a receipt under key in the same durable write;
// answer makes what the receipt remembers.
func (d *Door) ContentOnce(ctx context.Context, tenant string, body *mail.Body, key string, digest [32]byte,
	answer func(id mail.ID, until time.Time) []byte) (mail.ID, time.Time, error) {
	return d.contentOnce(ctx, tenant, body, func(id mail.ID, now, until time.Time) *mail.Receipt {
		return &mail.Receipt{Tenant: tenant, Key: key, Digest: digest, Answer: answer(id, until), At: now}
	})
}

type makeReceipt func(id mail.ID, now, until time.Time) *mail.Receipt

func (d *Door) contentOnce(ctx context.Context, tenant string, body *mail.Body, receipt makeReceipt) (mail.ID, time.Time, error) {
	d.metrics.inFlight.Add(1)
	defer d.metrics.inFlight.Add(-1)
	id, until, refusal := d.content(ctx, tenant, body, receipt)
	if refusal != nil {
		return mail.ID{}, time.Time{}, d.refused(refusal, tenant, "")
	}
	return id, until, nil
}

func (d *Door) content(ctx context.Context, tenant string, body *mail.Body, receipt makeReceipt) (mail.ID, time.Time, *Error) {
	now := d.deps.Now()
	id := d.deps.IDs.New(now)
	stored, refusal := d.store(ctx, body, &Injection{Protocol: "http"}, id, id, nil, now)
	if refusal != nil {
		return mail.ID{}, time.Time{}, refusal
	}
	defer stored.close()
	until := now.Add(d.opts.ContentLife.D())
	batch := &mail.Batch{Body: stored.body, ContentUntil: until, ContentTenant: tenant, Origin: mail.Origin{Protocol: "http"}}
	if receipt != nil {
		batch.Receipt = receipt(id, now, until)
	}
	if _, refusal := d.put(ctx, batch); refusal != nil {
		return mail.ID{}, time.Time{}, refusal
	}
	stored.file = nil
	return id, until, nil
}

// storedBody is an HTTP body on its way to the queue.
type storedBody struct {
	body *mail.Body
	file LargeFile // not nil until the queue has it
}

func (s *storedBody) close() {
	if s.file != nil {
		s.file.Abort()
	}
}

// store prepares an HTTP body: header processing of a raw one, a file for a large one.
// traceID goes into the Received field, id names the body.
func (d *Door) store(ctx context.Context, given *mail.Body, inj *Injection, traceID, id mail.ID, rows []Recipient, now time.Time) (*storedBody, *Error) {
	if int64(len(given.Data)) > int64(d.opts.MaxSize) {
		refusal := tooLarge(d.opts.MaxSize.String())
		refusal.Field = "body"
		return nil, refusal
	}
	body := &mail.Body{ID: id, Kind: given.Kind, Data: given.Data}
	if given.Kind != mail.BodyContent {
		if refusal := d.raw(body, inj, traceID, rows, now); refusal != nil {
			refusal.Field = "body"
			return nil, refusal
		}
	}
	body.Size = int64(len(body.Data))
	if refusal := d.checkTemplate(ctx, body); refusal != nil {
		if refusal.Field == "" {
			refusal.Field = "body"
		}
		return nil, refusal
	}
	s := &storedBody{body: body}
	if body.Size > int64(d.opts.Inline) {
		if refusal := d.storeLarge(ctx, s); refusal != nil {
			return nil, refusal
		}
	}
	return s, nil
}

// raw gives a whole message in memory the header processing of Message.
func (d *Door) raw(body *mail.Body, inj *Injection, traceID mail.ID, rows []Recipient, now time.Time) *Error {
	data := crlf(body.Data)
	h := &header{}
	if err := h.scan(data, true); err != nil {
		return err
	}
	if h.end > int(d.opts.MaxHeader) {
		return headerTooLarge(d.opts.MaxHeader.String())
	}
	if _, err := d.steer(inj, h, data, now); err != nil {
		return err
	}
	fields := d.fields(inj, h, traceID, rows, body.Kind == mail.BodyRawTemplate, now)
	out := make([]byte, 0, len(fields)+len(data)+4)
	out = h.appendKept(append(out, fields...), data)
	body.Data = append(out, data[h.body:]...)
	body.EightBit = hasHigh(body.Data)
	return nil
}

// storeLarge moves the data to a file.
func (d *Door) storeLarge(ctx context.Context, s *storedBody) *Error {
	file, err := d.deps.Queue.Large(ctx)
	if err != nil {
		return failed(fmt.Errorf("open file for large body: %w", err))
	}
	d.metrics.large.Inc()
	if _, err = file.Write(s.body.Data); err == nil {
		err = file.Commit()
	}
	if err != nil {
		file.Abort()
		return failed(fmt.Errorf("write large body: %w", err))
	}
	s.file, s.body.Path, s.body.Data = file, file.Path(), nil
	return nil
}
