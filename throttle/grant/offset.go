package grant

import "time"

// Constants of the estimate.
const (
	bucketLength = 4 * time.Second // the window is buckets x this
	buckets      = 5
	// A fall of the estimate by more than dropTolerance within settleTime means
	// that the way here became faster and what was under way arrives at once.
	dropTolerance = 5 * time.Millisecond
	settleTime    = 500 * time.Millisecond
)

// offset estimates the difference between our clock and the authority's: the
// least of (our time of arrival - authority's time of sending) over the last 20
// seconds, which is the true difference plus the shortest delay of the way here. As
// long as that delay is constant it only shifts permits in time. When it
// rises, permits look old until the window has passed. When it falls, permits
// sent over the time of the difference arrive together; they would all look fresh
// until the estimate has followed, and be one burst. So after a fall nothing is
// taken for fresh until it has settled.
type offset struct {
	mins    [buckets]time.Duration
	used    [buckets]bool
	current int
	began   time.Duration // start of the current bucket

	reference time.Duration // the estimate up to settleTime ago
	since     time.Duration // when it was taken
	settles   time.Duration // until then nothing is fresh
	falls     int
}

// sample takes a time of sending on their clock and of arrival on ours.
func (o *offset) sample(clock, now time.Duration) {
	d := now - clock
	if !o.used[o.current] {
		o.began, o.since, o.reference = now, now, d
	}
	for steps := 0; now-o.began >= bucketLength; steps++ {
		if steps == buckets { // long silence: nothing of the window is left
			o.began = now
			break
		}
		o.began += bucketLength
		o.current = (o.current + 1) % buckets
		o.used[o.current] = false
	}
	if now-o.since >= settleTime {
		if e, ok := o.estimate(); ok {
			o.reference, o.since = e, now
		}
	}
	if i := o.current; !o.used[i] || d < o.mins[i] {
		o.mins[i], o.used[i] = d, true
	}
	if d < o.reference-dropTolerance {
		if now >= o.settles {
			o.falls++
		}
		o.settles = now + settleTime
	}
}

func (o *offset) estimate() (d time.Duration, ok bool) {
	for i, used := range o.used {
		if used && (!ok || o.mins[i] < d) {
			d, ok = o.mins[i], true
		}
	}
	return d, ok
}

// local translates an instant of their clock into ours.
func (o *offset) local(at time.Duration) time.Duration {
	d, _ := o.estimate()
	return at + d
}

// settling reports whether permits that arrive now may be older than they look.
func (o *offset) settling(now time.Duration) bool { return now < o.settles }
