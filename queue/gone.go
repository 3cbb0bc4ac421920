package queue

import "github.com/godwit-mta/godwit/queue/spool"

// goneRows remembers rows that are over while the index, or a refill that
// read the index earlier, may still show them. Without it a refill that
// overlaps the end of a message would deliver it twice.
type goneRows struct {
	rows    map[spool.Key]struct{}
	epoch   uint64         // number of flushes settled
	reading map[uint64]int // refills under way, by the epoch they began in
	settled []goneBatch    // oldest first
}

type goneBatch struct {
	epoch uint64
	keys  []spool.Key
}

func newGoneRows() goneRows {
	return goneRows{rows: map[spool.Key]struct{}{}, reading: map[uint64]int{}}
}

func (g *goneRows) add(k spool.Key) { g.rows[k] = struct{}{} }

func (g *goneRows) has(k spool.Key) bool {
	_, yes := g.rows[k]
	return yes
}

// begin notes a refill; end takes what it returned.
func (g *goneRows) begin() (epoch uint64) {
	g.reading[g.epoch]++
	return g.epoch
}

func (g *goneRows) end(epoch uint64) {
	if g.reading[epoch]--; g.reading[epoch] == 0 {
		delete(g.reading, epoch)
	}
	g.drop()
}

// settle notes that the index has removed these rows.
func (g *goneRows) settle(keys []spool.Key) {
	g.epoch++
	g.settled = append(g.settled, goneBatch{g.epoch, keys})
	g.drop()
}

// drop forgets the rows that no refill under way can still have seen.
func (g *goneRows) drop() {
	oldest := g.epoch
	for e := range g.reading {
		oldest = min(oldest, e)
	}
	n := 0
	for n < len(g.settled) && g.settled[n].epoch <= oldest {
		for _, k := range g.settled[n].keys {
			delete(g.rows, k)
		}
		n++
	}
	g.settled = append(g.settled[:0], g.settled[n:]...)
}
