package stream

// batch is one commit in memory. It does not change once it is published.
type batch struct {
	header
	bodies [][]byte // of the appends in it, one after the other
	bytes  int
}

// records appends what the batch has of a partition, from an offset on.
func (b *batch) records(recs []Record, partition int32, from int64) ([]Record, error) {
	first := b.base
	for _, body := range b.bodies {
		for len(body) > 0 {
			r, rest, err := nextRun(body)
			if err != nil {
				return recs, err
			}
			if r.partition == partition && first+r.entries > from {
				if recs, err = r.records(recs, first, from, b.at); err != nil {
					return recs, err
				}
			}
			first += r.entries
			body = rest
		}
	}
	return recs, nil
}

// recent is a ring of the newest batches, bounded by their bytes. The newest one always stays.
type recent struct {
	limit int
	bytes int
	slots []*batch // its length is a power of two
	first int      // number of the oldest batch
	next  int      // number that the next one gets
}

func (r *recent) at(number int) *batch { return r.slots[number&(len(r.slots)-1)] }

func (r *recent) push(b *batch) {
	if r.next-r.first == len(r.slots) {
		old := *r
		r.slots = make([]*batch, max(64, 2*len(r.slots)))
		for n := r.first; n < r.next; n++ {
			r.slots[n&(len(r.slots)-1)] = old.at(n)
		}
	}
	r.slots[r.next&(len(r.slots)-1)] = b
	r.next++
	r.bytes += b.bytes
	for r.bytes > r.limit && r.next-r.first > 1 {
		r.drop()
	}
}

// drop forgets the oldest batch.
func (r *recent) drop() {
	r.bytes -= r.at(r.first).bytes
	r.slots[r.first&(len(r.slots)-1)] = nil
	r.first++
}

// dropBefore forgets the batches that begin before an offset.
func (r *recent) dropBefore(offset int64) {
	for r.first < r.next && r.at(r.first).base < offset {
		r.drop()
	}
}

// find returns the number of the batch that has an offset; ok is false when the ring does not begin so early.
func (r *recent) find(offset int64) (number int, ok bool) {
	if r.first == r.next || r.at(r.first).base > offset {
		return 0, false
	}
	lo, hi := r.first, r.next
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; r.at(mid).base <= offset {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo, true
}
