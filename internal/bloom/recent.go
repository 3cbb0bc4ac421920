package bloom

// Recent has the hashes that were added lately, for those who keep track of what it covers: for owners (profiles, say) all of
// whose things were added since some epoch, it says of a thing that it was never added without a look at where the
// things are. It has two generations, so that it can forget.
type Recent struct {
	now, before Filter
	epoch       uint32 // of now; counts from 1
	added       int
}

// NewRecent makes one of about so many bytes.
func NewRecent(bytes int) *Recent {
	return &Recent{now: New(bytes / 2), before: New(bytes / 2), epoch: 1}
}

// Epoch is the one of now: an owner that has nothing yet is covered since then. It is never 0.
func (r *Recent) Epoch() uint32 { return r.epoch }

// Covers reports whether an owner is covered all of whose things were added since an epoch. 0 is none.
func (r *Recent) Covers(since uint32) bool { return since != 0 && since+1 >= r.epoch }

// Add adds a hash. All of its 64 bits should be even.
func (r *Recent) Add(hash uint64) {
	r.added++
	r.now.Add(hash)
}

// Turn begins a new epoch if this one is full. What covers no more is found out by Covers.
func (r *Recent) Turn() {
	if r.added < r.now.Capacity() {
		return
	}
	r.now, r.before = r.before, r.now
	clear(r.now)
	r.epoch++
	r.added = 0
}

// Has reports whether a hash may have been added in this epoch or the one before.
func (r *Recent) Has(hash uint64) bool { return r.now.Has(hash) || r.epoch > 1 && r.before.Has(hash) }
