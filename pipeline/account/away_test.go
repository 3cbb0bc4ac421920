package account

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/godwit-mta/godwit/internal/keyed"
)

// saying answers whatever is asked.
type saying struct {
	answer []byte
	err    error
}

// Ask implements Away.
func (s saying) Ask(context.Context, []byte) ([]byte, error) { return s.answer, s.err }

func TestQuestionsElsewhere(t *testing.T) {
	w := newWorld(t, 1)
	m := feed(w, "utc", morning, map[string]int{"red": 3})
	q := day(m, "utc")
	p, err := newPlan(&q, w.reader().Zone("utc"))
	if err != nil {
		t.Fatal(err)
	}
	p.to += 1800
	for _, at := range w.parts {
		_, here := at.proc.collect(t.Context(), p, "utc")
		_, there := remote{asked{at}}.collect(t.Context(), p, "utc")
		if errors.Is(here, ErrNeedsWarehouse) != errors.Is(there, ErrNeedsWarehouse) || (here == nil) != (there == nil) {
			t.Errorf("here: %v; there: %v", here, there)
		}
	}
	for _, bad := range []string{"", "[]", `{"op":"drop"}`, `{"op":"collect"}`, `{"op":"collect","plan":{"zone":"No/Where"}}`} {
		if got, err := Answer(t.Context(), w.parts[0].proc, []byte(bad)); err == nil {
			t.Errorf("%q: %q", bad, got)
		}
	}
	if _, err := Answer(t.Context(), nil, []byte(`{"op":"metrics"}`)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("of no processor: %v", err)
	}
}

// TestAnswersCutOff: an answer that ends early, or has more behind it, is none.
func TestAnswersCutOff(t *testing.T) {
	l := lines{"": {3: {count: 2, sum: Sum{-1, 7}, unique: 1}, -4: {count: 1}}, "red": {3: {}}}
	whole := l.append([]byte{answered})
	for n := range len(whole) {
		if got, err := (remote{saying{answer: whole[:n]}}).collect(t.Context(), &plan{zone: zone(t, "UTC")}, "x"); !errors.Is(err, errAnswer) {
			t.Errorf("%d of %d bytes are %v, %v", n, len(whole), got, err)
		}
	}
	got, err := parseLines(whole[1:])
	if err != nil || fmt.Sprint(got[""][3], got[""][-4], got["red"][3]) != fmt.Sprint(l[""][3], l[""][-4], l["red"][3]) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseLines(append(bytes.Clone(whole[1:]), 0)); !errors.Is(err, errAnswer) {
		t.Errorf("with more behind it: %v", err)
	}
	gone := remote{saying{err: fmt.Errorf("there: %w", keyed.ErrClosed)}}
	if err := gone.listDimensions(t.Context(), map[string]bool{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("of nobody: %v", err)
	}
}
