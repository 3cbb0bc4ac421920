package ingest

import (
	"context"
	"strconv"

	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// Report tells what became of the events of a bulk job.
type Report struct {
	Events   int // of the job
	Accepted int
	// Refused are those that were not taken, in the order of the job. Items may be refused as a whole.
	Refused []Refused
}

// Refused is an event of a bulk job that was not taken, or all of an item's.
type Refused struct {
	Item   int // data/Item of the job
	Event  int // events/data/Event of the item; -1: none of the item's was taken
	Events int // how many that are
	Errors jsonapi.Errors
}

// Bulk takes the document of POST /api/event-bulk-create-jobs: what is good of it, with one append. seed is as for Event. The
// error is about the document as a whole, and then nothing was taken; those of its events are in the report.
func (k *Door) Bulk(ctx context.Context, tenant string, body []byte, seed string) (Position, *Report, error) {
	if err := k.checkBody(body); err != nil {
		return nil, nil, err
	}
	r := k.reader(tenant, string(body))
	defer k.release(r)
	r.seed = seedOf(seed)
	report := &Report{}
	r.readJob(report)
	if err := r.outcome(); err != nil {
		k.numbers.refused.Inc()
		return nil, nil, err
	}
	k.numbers.refused.Add(float64(report.Events - report.Accepted))
	at, err := k.append(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	return at, report, nil
}

// readJob reads {data:{type,attributes:{"events-bulk-create":{data:[item…]}}}}. What is noted in r.errs
// afterwards is wrong with the whole.
func (r *reader) readJob(report *Report) {
	const rel = "/attributes/events-bulk-create"
	r.item = 0
	if !r.open() || !r.find("data", inJob, "") || !r.enter('{', inJob, "") {
		return
	}
	found := false
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			break
		}
		switch key {
		case "type":
			r.wantType(inJob, "/type", "event-bulk-create-job")
		case "attributes":
			if found {
				r.skip()
				r.invalid(inJob, "/attributes", "is there twice")
				break
			}
			found = true
			if !r.enter('{', inJob, "/attributes") || !r.find("events-bulk-create", inJob, rel) {
				break
			}
			if r.enter('{', inJob, rel) && r.find("data", inJob, rel+"/data") {
				r.items(report)
				r.leaveData()
			}
			r.leaveData()
		default:
			r.skip()
		}
	}
	r.leaveData()
	r.end()
	if !found && !r.bad && len(r.errs) == 0 {
		r.invalid(inJob, "/attributes", "is required")
	}
	if report.Events > r.o.MaxEvents {
		r.errs = jsonapi.Errors{jsonapi.Invalid("/data"+rel+"/data", "has %d events, %d are allowed in a job", report.Events, r.o.MaxEvents)}
	}
}

// find goes to the value of a member, behind the brace of its object. It is false if there is none, which is noted.
func (r *reader) find(name string, p part, rel string) bool {
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			if !r.bad {
				r.invalid(p, rel, "is required")
			}
			return false
		}
		if key == name {
			return true
		}
		r.skip()
	}
}

// items reads the array of items.
func (r *reader) items(report *Report) {
	if !r.enter('[', inJob, "/attributes/events-bulk-create/data") {
		return
	}
	whole := r.errs
	for r.item = 0; r.element(r.item); r.item++ {
		r.errs = nil
		r.readItem(report)
	}
	r.errs = whole
}

// readItem reads {type,attributes:{backfill,profile:{data},events:{data:[event…]}}}. The members may come in any
// order. Events that stand behind their profile are read at once; if what follows them changes
// something, what they made is taken back, and they are read again at the end.
func (r *reader) readItem(report *Report) {
	mark := r.mark(report)
	it := jobItem{events: -1}
	r.profile.reset()
	r.seen.profile = false
	if r.enter('{', inItem, "") {
		for n := 0; ; n++ {
			key, ok := r.member(n)
			if !ok {
				break
			}
			switch key {
			case "type":
				r.wantType(inItem, "/type", "event-bulk-create")
			case "attributes":
				r.itemAttributes(&it, report)
			default:
				r.skip()
			}
		}
		switch {
		case r.bad || len(r.errs) > 0:
		case !r.seen.profile:
			r.invalid(inItem, "/attributes/profile", "is required")
		case it.events < 0:
			r.invalid(inItem, "/attributes/events", "is required")
		}
	}
	if r.bad || it.read && len(r.errs) == 0 {
		return
	}
	r.takeBack(mark, report)
	behind := r.i
	if whole := r.errs; len(whole) > 0 {
		n := 1
		if it.events >= 0 {
			r.i = it.events
			n = r.countEvents()
		}
		report.Events += n
		report.Refused = append(report.Refused, Refused{r.item, -1, n, whole})
	} else {
		r.i = it.events
		r.profile.restore()
		r.readEvents(report, it.backfill)
	}
	if !r.bad {
		r.i = behind
	}
}

// jobItem is what was found of an item.
type jobItem struct {
	events   int // where they begin; -1: none were seen
	backfill bool
	read     bool // the events are read, and nothing came since that they depend on
}

// mark is how much a reader had made at some time.
type mark struct {
	out, ends int
	report    Report
}

func (r *reader) mark(report *Report) mark { return mark{len(r.out), len(r.ends), *report} }

func (r *reader) takeBack(m mark, report *Report) {
	r.out, r.ends, r.parts = r.out[:m.out], r.ends[:m.ends], r.parts[:m.ends]
	for n := len(r.old); n > 0 && r.old[n-1].record >= m.ends; n-- {
		r.old[n-1] = old{}
		r.old = r.old[:n-1]
	}
	*report = m.report
}

func (r *reader) itemAttributes(it *jobItem, report *Report) {
	*it = jobItem{events: -1}
	if !r.enter('{', inItem, "/attributes") {
		return
	}
	for n := 0; ; n++ {
		key, ok := r.member(n)
		if !ok {
			return
		}
		switch key {
		case "profile":
			r.seen.profile, it.read = true, false
			if r.enterData(inItem, "/attributes/profile") {
				r.readProfile()
				r.leaveData()
			}
		case "backfill":
			it.backfill, it.read = r.bool(inItem, "/attributes/backfill"), false
		case "events":
			r.peek()
			again := it.events >= 0
			it.events = r.i
			if it.read = r.seen.profile && !again && len(r.errs) == 0; it.read {
				r.readEvents(report, it.backfill)
				r.errs = nil
			} else {
				r.skip()
			}
		default:
			r.skip()
			r.invalid(inItem, "/attributes/"+escape(key), "is not an attribute of an event-bulk-create")
		}
	}
}

// readEvents reads {data:[event…]} and makes the records of the good ones.
func (r *reader) readEvents(report *Report, backfill bool) {
	const rel = "/attributes/events"
	found := r.enter('{', inItem, rel) && r.find("data", inItem, rel+"/data")
	if found {
		defer r.leaveData()
	}
	if !found || !r.enter('[', inItem, rel+"/data") {
		report.Events++
		report.Refused = append(report.Refused, Refused{r.item, -1, 1, r.errs})
		return
	}
	for r.index = 0; r.element(r.index); r.index++ {
		r.errs = nil
		r.seen.profile = true
		r.readEvent()
		if r.bad {
			return
		}
		report.Events++
		if len(r.errs) == 0 && report.Events <= r.o.MaxEvents {
			r.event.Backfill = r.event.Backfill || backfill
			r.finish(r.name())
		}
		if len(r.errs) > 0 {
			report.Refused = append(report.Refused, Refused{r.item, r.index, 1, r.errs})
			continue
		}
		report.Accepted++
	}
}

// name tells the event from the others of its request.
func (r *reader) name() string {
	if r.seed == "" {
		return ""
	}
	return strconv.Itoa(r.item) + "." + strconv.Itoa(r.index)
}

// countEvents tells how many events an item has that is refused as a whole, at least 1.
func (r *reader) countEvents() int {
	count := 0
	if r.peek() == '{' {
		r.i++
		for n := 0; ; n++ {
			key, ok := r.member(n)
			if !ok {
				break
			}
			if key != "data" || r.peek() != '[' {
				r.skip()
				continue
			}
			r.i++
			for count = 0; r.element(count); count++ {
				r.skip()
			}
		}
	}
	return max(count, 1)
}
