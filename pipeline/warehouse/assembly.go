package warehouse

import (
	"bytes"
	"slices"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// assembly collects a Batch. It copies what lies in the log's memory.
type assembly struct {
	b       Batch
	records int
	bytes   int
	offsets map[int32]*Offset
	origins map[originKey]place
	text    []byte   // free space for copies
	blocks  [][]byte // of the text, full ones too
	free    int      // blocks before it are in use
}

// reset empties an assembly whose batch nobody needs any more, and keeps its memory.
func (a *assembly) reset() {
	clear(a.b.Events)
	clear(a.b.Changes)
	*a = assembly{b: Batch{Events: a.b.Events[:0], Changes: a.b.Changes[:0]}, blocks: a.blocks}
}

func (a *assembly) empty() bool { return a.records == 0 }

func (a *assembly) full(o Options) bool { return a.records >= o.Batch || a.bytes >= int(o.Bytes) }

// offset notes that the records of a partition from one offset to before another are in it.
func (a *assembly) offset(partition int32, from, next int64) {
	a.records++
	if a.offsets == nil {
		a.offsets = map[int32]*Offset{}
	}
	o := a.offsets[partition]
	if o == nil {
		o = &Offset{Partition: partition, From: from}
		a.offsets[partition] = o
	}
	o.Next = next
}

func (a *assembly) origin(k originKey, p place) {
	if a.origins == nil {
		a.origins = map[originKey]place{}
	}
	a.origins[k] = p
}

func (a *assembly) add(f *fact.Fact, partition int32, offset int64, size int) {
	a.bytes += size
	if f.Event != nil {
		e := Event{Event: *f.Event, Tenant: f.Tenant, Profile: f.Profile, Accepted: f.At, Partition: partition, Offset: offset}
		e.Properties = a.copy(e.Properties)
		a.b.Events = append(a.b.Events, e)
	}
	if f.Change == nil && len(f.Who) == 0 && f.Event != nil {
		return
	}
	c := Change{Tenant: f.Tenant, Profile: f.Profile, At: f.At, Who: f.Who}
	if f.Change != nil {
		c.Change = a.change(f.Change)
	}
	a.b.Changes = append(a.b.Changes, c)
}

func (a *assembly) change(c *fact.Change) *fact.Change {
	out := *c
	for _, part := range []*[]byte{&out.Attributes, &out.Properties, &out.Append, &out.Unappend, &out.Unset} {
		*part = a.copy(*part)
	}
	return &out
}

const textBlock = 1 << 18

// copy returns a copy that lasts as long as the batch.
func (a *assembly) copy(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	if len(b) > textBlock/4 {
		return bytes.Clone(b)
	}
	if len(a.text)+len(b) > cap(a.text) {
		a.text = a.block()
	}
	at := len(a.text)
	a.text = append(a.text, b...)
	return a.text[at:len(a.text):len(a.text)]
}

// block is an empty block of text.
func (a *assembly) block() []byte {
	if a.free == len(a.blocks) {
		a.blocks = append(a.blocks, make([]byte, 0, textBlock))
	}
	a.free++
	return a.blocks[a.free-1]
}

func (a *assembly) marker(f *fact.Fact) {
	a.b.Markers = append(a.b.Markers, Marker{Tenant: f.Tenant, Merge: *f.Merge, Partition: f.From.Partition})
}

// merge completes one; its markers, of this batch too, are needed no longer.
func (a *assembly) merge(f *fact.Fact) {
	a.b.Markers = slices.DeleteFunc(a.b.Markers, func(m Marker) bool { return m.Merge.ID == f.Merge.ID })
	a.b.Merges = append(a.b.Merges, Merge{Tenant: f.Tenant, Merge: *f.Merge, At: f.At, Events: len(a.b.Events), Changes: len(a.b.Changes)})
}

func (a *assembly) batch() *Batch {
	for _, o := range a.offsets {
		a.b.Offsets = append(a.b.Offsets, *o)
	}
	for k, p := range a.origins {
		a.b.Origins = append(a.b.Origins, Origin{k.partition, k.stage, k.source, p.offset, p.n})
	}
	return &a.b
}
