package cluster

import (
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/godwit-mta/godwit/internal/records"
)

// Every message begins with the version of the format and its kind; see docs/formats/cluster-state.md.
const (
	wireVersion = 1

	kindReport  = 1 // a report, JSON
	kindRecords = 2 // records, one behind the other
	kindSync    = 3 // what is exchanged when two nodes compare all they know
)

// limits of what is believed of a peer.
const (
	maxSources = 100_000
	maxReports = 10_000
	// maxSync keeps a comparison well below memberlist's 20 MiB.
	maxSync = 8 << 20
	// maxChunk is how many bytes of records go in one message over TCP.
	maxChunk = 512 << 10
	// maxPacket is the largest message sent by UDP gossip: memberlist's packets have 1400
	// bytes, of which encryption, label and framing take some.
	maxPacket = 1000
	maxMeta   = 512
)

var errBadMessage = errors.New("not a message of this format")

// meta is what a member's entry in memberlist itself carries, at most 512 bytes.
type meta struct {
	Version int    `json:"v"`
	Role    string `json:"role,omitempty"`
	Zone    string `json:"zone,omitempty"`
	Link    string `json:"link,omitempty"`
}

func (m meta) encode() []byte {
	b, err := json.Marshal(m)
	if err != nil || len(b) > maxMeta { // not with values that passed the checks
		return []byte(`{"v":1}`)
	}
	return b
}

// parseMeta takes what it understands; a member with other metadata is a member all the same.
func parseMeta(b []byte) (m meta) {
	if json.Unmarshal(b, &m) != nil {
		return meta{}
	}
	return m
}

// report is what a node tells of itself. A later one (epoch, then seq) replaces an earlier one.
type report struct {
	Name     string `json:"name"`
	Epoch    int64  `json:"epoch"` // of the node's start
	Seq      uint64 `json:"seq"`
	Admin    string `json:"admin,omitempty"`
	Pipeline string `json:"pipeline,omitempty"`
	Version  string `json:"version,omitempty"`
	Digest   string `json:"digest,omitempty"` // of the configuration
	Load     Load   `json:"load"`
	Draining bool   `json:"draining,omitempty"`
	Leaving  bool   `json:"leaving,omitempty"`
	// Sources is left out of what goes by gossip, which has no room for it. SourcesSeq is the Seq of the report in which they last changed.
	Sources    *[]string `json:"sources,omitempty"`
	SourcesSeq uint64    `json:"sources_seq,omitempty"`
}

// newer orders reports and lists of sources by when they were made.
func newer(epoch int64, seq uint64, thanEpoch int64, thanSeq uint64) bool {
	return epoch > thanEpoch || epoch == thanEpoch && seq > thanSeq
}

func (r *report) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil { // not with these types
		return nil
	}
	return append([]byte{wireVersion, kindReport}, b...)
}

func parseReport(b []byte) (report, error) {
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return r, errBadMessage
	}
	if !isName(r.Name) || r.Sources != nil && len(*r.Sources) > maxSources {
		return r, errBadMessage
	}
	return r, nil
}

// encodeRecords packs records into messages of about maxChunk bytes.
func encodeRecords(recs []records.Record) (messages [][]byte) {
	var b []byte
	for i := range recs {
		if len(b) == 0 {
			b = append(b, wireVersion, kindRecords)
		}
		b = recs[i].Append(b)
		if len(b) >= maxChunk || i == len(recs)-1 {
			messages = append(messages, b)
			b = nil
		}
	}
	return messages
}

// parseRecords returns what can be read; an error tells that something could not.
func parseRecords(b []byte) (recs []records.Record, err error) {
	for len(b) > 0 {
		var r records.Record
		if r, b, err = records.Decode(b); err != nil {
			return recs, errBadMessage
		}
		recs = append(recs, r)
	}
	return recs, nil
}

// comparison is what two nodes exchange to find out what the other lacks.
type comparison struct {
	from    string
	digest  records.Digest
	reports []report // of all present members that the sender knows of, its own first
}

func (s *comparison) encode() []byte {
	b := []byte{wireVersion, kindSync}
	b = binary.AppendUvarint(b, uint64(len(s.from)))
	b = append(b, s.from...)
	b = s.digest.Append(b)
	for i := range s.reports {
		r := s.reports[i].encode()
		if len(b)+len(r) > maxSync {
			break
		}
		b = binary.AppendUvarint(b, uint64(len(r)))
		b = append(b, r...)
	}
	return b
}

func parseComparison(b []byte) (s comparison, err error) {
	name, b, ok := cutField(b)
	if !ok || !isName(string(name)) || len(b) < records.DigestSize {
		return s, errBadMessage
	}
	s.from = string(name)
	if s.digest, err = records.ParseDigest(b[:records.DigestSize]); err != nil {
		return s, err
	}
	b = b[records.DigestSize:]
	for len(b) > 0 {
		var field []byte
		if field, b, ok = cutField(b); !ok || len(s.reports) == maxReports {
			return s, errBadMessage
		}
		if len(field) < 2 || field[0] != wireVersion || field[1] != kindReport {
			continue // of a later version
		}
		r, err := parseReport(field[2:])
		if err != nil {
			return s, err
		}
		s.reports = append(s.reports, r)
	}
	return s, nil
}

// cutField takes a length and so many bytes from the front of b.
func cutField(b []byte) (field, rest []byte, ok bool) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)-used) {
		return nil, nil, false
	}
	return b[used : used+int(n)], b[used+int(n):], true
}
