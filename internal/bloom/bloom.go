// Package bloom is a Bloom filter whose bits for one thing lie in one cache line: a look costs at most one wait for memory
// (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007).
package bloom

// BitsPerKey is the room for one thing at which a filter errs about once in a hundred times.
const BitsPerKey = 11

const (
	blockWords = 8 // of 64 bits: a cache line
	probes     = 6
)

// Filter says of a hash that it was never added, or that it may have been. A nil one has everything.
// It is not safe for use beside Add.
type Filter []uint64

// New makes a filter of about so many bytes, at least a cache line.
func New(bytes int) Filter { return make(Filter, max(blockWords, bytes/8/blockWords*blockWords)) }

// Capacity is how many things it can have before it errs much more often than once in a hundred times.
func (f Filter) Capacity() int { return len(f) * 64 / BitsPerKey }

// Add adds a hash. All of its 64 bits should be even.
func (f Filter) Add(hash uint64) {
	block, h := f.block(hash), uint32(hash)
	for range probes {
		h = h*0x9e3779b1 + 0x7f4a7c15
		block[h>>29] |= 1 << (h >> 23 & 63)
	}
}

// Has reports whether a hash may have been added.
func (f Filter) Has(hash uint64) bool {
	if f == nil {
		return true
	}
	block, h := f.block(hash), uint32(hash)
	for range probes {
		h = h*0x9e3779b1 + 0x7f4a7c15
		if block[h>>29]&(1<<(h>>23&63)) == 0 {
			return false
		}
	}
	return true
}

// block is where a hash has its bits: the upper half picks it by multiplication.
func (f Filter) block(hash uint64) []uint64 {
	at := hash >> 32 * uint64(len(f)/blockWords) >> 32 * blockWords
	return f[at : at+blockWords : at+blockWords]
}
