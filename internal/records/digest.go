package records

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// Buckets is the number of parts that a Digest divides the keys into.
const Buckets = 256

// DigestSize is the length of a digest's binary form.
const DigestSize = Buckets * 8

// Digest sums up which version of which key a store holds, tombstones included: for
// each bucket of keys, the XOR of a hash of each key and version. Two stores with equal digests hold the same.
type Digest [Buckets]uint64

// ErrBadDigest is returned by ParseDigest.
var ErrBadDigest = errors.New("records: not a digest")

// Append adds the binary form of d to b: 256 numbers of 8 bytes, little endian.
func (d *Digest) Append(b []byte) []byte {
	for _, sum := range d {
		b = binary.LittleEndian.AppendUint64(b, sum)
	}
	return b
}

// ParseDigest is the inverse of Append.
func ParseDigest(b []byte) (d Digest, err error) {
	if len(b) != DigestSize {
		return d, ErrBadDigest
	}
	for i := range d {
		d[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return d, nil
}

// toggle takes r into the digest, or out of it again.
func (d *Digest) toggle(r *Record) {
	bucket := bucketOf(r.Key)
	h := sha256.New()
	var length [4]byte
	binary.LittleEndian.PutUint32(length[:], uint32(len(r.Key)))
	h.Write(length[:])
	h.Write([]byte(r.Key))
	var version [8]byte
	binary.LittleEndian.PutUint64(version[:], r.Version.Time)
	h.Write(version[:])
	h.Write([]byte(r.Version.Node))
	d[bucket] ^= binary.LittleEndian.Uint64(h.Sum(nil))
}

// bucketOf is the first byte of the key's SHA-256.
func bucketOf(key string) byte { return sha256.Sum256([]byte(key))[0] }
