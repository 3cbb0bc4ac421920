package customer

import (
	"bytes"
	"cmp"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// EventID names an event: its profile, metric, and the hash of its unique id.
type EventID [16 + 8 + hashSize]byte

// eventText has the alphabet of the other ids: 64 characters.
var eventText = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// String is the form that the API uses.
func (e EventID) String() string { return eventText.EncodeToString(e[:]) }

// ParseEventID reads the form of String, in either case.
func ParseEventID(s string) (e EventID, err error) {
	b, err := eventText.DecodeString(strings.ToLower(s))
	if err != nil || len(b) != len(e) {
		return e, fact.ErrBadID
	}
	copy(e[:], b)
	return e, nil
}

// Event is an event of a profile.
type Event struct {
	ID         EventID
	Profile    fact.ProfileID
	Metric     fact.MetricID
	Time       time.Time
	Value      int64 // millionths, if HasValue
	HasValue   bool
	Backfill   bool
	Kept       []byte // JSON object of the properties that live definitions read; nil if none
	Properties []byte // JSON object of all; nil if they are not kept
}

// EventQuery asks for events of one profile.
type EventQuery struct {
	Profile    fact.ProfileID
	Metric     fact.MetricID // 0: all
	Time       Range
	Descending bool // the latest first
	Cursor     string
	Size       int // 20 unless given, at most 1,000
}

// EventPage is a part of an answer, in the order of time. Cursor asks for the next one; it is empty behind the last.
type EventPage struct {
	Events []Event
	Cursor string
}

// Events returns events of a profile that are not older than Options.Window. All of its rows are read for each page.
func (r *Reader) Events(tenant string, q EventQuery) (*EventPage, error) {
	t := fact.TenantIDOf(tenant)
	s, w, _, err := r.find(t, q.Profile)
	if err != nil {
		return nil, err
	}
	id := w.profile()
	ask := question{tenant: t, kind: prefixEvent, detail: string(id[:]) + q.Metric.String(), back: q.Descending}
	after, err := ask.place(q.Cursor)
	if err != nil {
		return nil, err
	}
	best := top{size: pageSize(q.Size) + 1, after: after, back: q.Descending}
	var failed error
	err = s.Scan(metricPrefix(prefixEvent, w, q.Metric), nil, func(k, v []byte) bool {
		var e row
		if failed = e.parse(v); failed != nil {
			return false
		}
		if q.Time.has(millis(e.time)) {
			best.offer(append(appendMillis(nil, e.time), k[rowHead:]...))
		}
		return true
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	places := best.take()
	out := &EventPage{Events: make([]Event, 0, len(places))}
	if size := best.size - 1; len(places) > size {
		places = places[:size]
		out.Cursor = ask.cursor(places[size-1])
	}
	for _, at := range places {
		e, err := readEvent(s, w, at[8:])
		if errors.Is(err, ErrNotFound) { // it left meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		out.Events = append(out.Events, *e)
	}
	return out, nil
}

// Event returns an event, following merges of its profile, or ErrNotFound.
func (r *Reader) Event(tenant string, id EventID) (*Event, error) {
	var profile fact.ProfileID
	copy(profile[:], id[:])
	s, w, _, err := r.find(fact.TenantIDOf(tenant), profile)
	if err != nil {
		return nil, err
	}
	return readEvent(s, w, id[len(profile):])
}

// metricPrefix is the beginning of the rows of a profile and metric, or of all metrics for 0.
func metricPrefix(prefix byte, w who, m fact.MetricID) []byte {
	key := append([]byte{prefix}, w[:]...)
	if m != 0 {
		key = binary.BigEndian.AppendUint64(key, uint64(m))
	}
	return key
}

// readEvent reads an event whose key ends with tail.
func readEvent(s State, w who, tail []byte) (*Event, error) {
	key := append(append([]byte{prefixEvent}, w[:]...), tail...)
	v, err := s.Get(key)
	if errors.Is(err, keyed.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	var e row
	if err := e.parse(v); err != nil {
		return nil, err
	}
	out := &Event{Profile: w.profile(), Metric: fact.MetricID(binary.BigEndian.Uint64(tail)), Time: millis(e.time), Value: e.value,
		HasValue: e.flags&hasValue != 0, Backfill: e.flags&isBackfill != 0, Kept: e.kept, Properties: e.content}
	copy(out.ID[:], out.Profile[:])
	copy(out.ID[len(out.Profile):], tail)
	return out, nil
}

// top keeps the first places of many, in order or from the last back.
type top struct {
	size   int
	after  []byte
	back   bool
	places [][]byte
}

func (t *top) compare(a, b []byte) int {
	if t.back {
		a, b = b, a
	}
	return bytes.Compare(a, b)
}

func (t *top) offer(place []byte) {
	if t.after != nil && t.compare(place, t.after) <= 0 {
		return
	}
	if t.places = append(t.places, place); len(t.places) >= 4*t.size {
		t.cut()
	}
}

func (t *top) cut() {
	slices.SortFunc(t.places, t.compare)
	t.places = t.places[:min(len(t.places), t.size)]
}

func (t *top) take() [][]byte {
	t.cut()
	return t.places
}

// Window is the events of a metric in a time that ends now.
type Window struct {
	Count uint64
	Sum   int64     // of values, in millionths
	First time.Time // zero if there is none
	Last  time.Time
}

func (w *Window) add(b bucket) {
	if first := millis(b.first); w.Count == 0 || first.Before(w.First) {
		w.First = first
	}
	if last := millis(b.last); w.Count == 0 || last.After(w.Last) {
		w.Last = last
	}
	w.Count += b.count
	w.Sum += b.sum
}

// Summary counts the events of a profile and metric in each of several windows: those later than now less the window, and not
// later than now. A window of 0 is all time. Events older than Options.Window are counted by whole days of UTC: a day is in a window that
// reaches into it.
func (r *Reader) Summary(tenant string, id fact.ProfileID, metric fact.MetricID, windows []time.Duration, now time.Time) ([]Window, error) {
	s, w, _, err := r.find(fact.TenantIDOf(tenant), id)
	if err != nil {
		return nil, err
	}
	out := make([]Window, len(windows))
	if metric == 0 {
		return out, nil
	}
	begins := make([]int64, len(windows))
	for i, d := range windows {
		if begins[i] = never; d > 0 {
			begins[i] = now.Add(-d).UnixMilli()
		}
	}
	end := now.UnixMilli()
	var failed error
	err = s.Scan(metricPrefix(prefixEvent, w, metric), nil, func(_, v []byte) bool {
		var e row
		if failed = e.parse(v); failed != nil {
			return false
		}
		for i := range out {
			if e.time > begins[i] && e.time <= end {
				out[i].add(bucket{count: 1, sum: e.value, first: e.time, last: e.time})
			}
		}
		return true
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	return out, addDays(s, metricPrefix(prefixBucket, w, metric), out, begins, end)
}

// addDays adds the counts of days.
func addDays(s State, prefix []byte, out []Window, begins []int64, end int64) error {
	earliest := slices.MinFunc(append([]int64{end}, begins...), cmp.Compare)
	from := appendDay(slices.Clone(prefix), dayOf(earliest))
	if earliest == never {
		from = prefix
	}
	var failed error
	err := s.Scan(from, keyed.After(prefix), func(k, v []byte) bool {
		day := millisIn(k[len(prefix):])
		var b bucket
		if failed = b.parse(v, day); failed != nil {
			return false
		}
		for i := range out {
			if (begins[i] == never || day >= dayOf(begins[i])) && b.first <= end {
				out[i].add(b)
			}
		}
		return true
	})
	return errors.Join(err, failed)
}
