// Package fact has the nouns of the pipeline, and how they stand in its two logs.
//
// The first log (Intake) has what came in, under the identifiers it came with; it is
// partitioned by identifier. The second one (Fact) has the same under the profile
// that the identifiers belong to; it is partitioned by profile. Formats: docs/formats/pipeline.md.
package fact

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// text is the alphabet of ids: lower case letters and digits that cannot be mistaken, in the order of their values.
var text = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// ProfileID names a profile. It is derived from the tenant and the identifier that
// the profile was first known by, so a replay finds the same one. The zero value is none.
type ProfileID [16]byte

// ErrBadID is returned for text that is not an id.
var ErrBadID = errors.New("not an id of this kind")

// IsZero reports whether p names no profile.
func (p ProfileID) IsZero() bool { return p == ProfileID{} }

// String is the form that the API uses: 26 characters.
func (p ProfileID) String() string { return text.EncodeToString(p[:]) }

// ParseProfileID reads the form of String, in either case.
func ParseProfileID(s string) (p ProfileID, err error) {
	b, err := text.DecodeString(strings.ToLower(s))
	if err != nil || len(b) != len(p) {
		return p, ErrBadID
	}
	copy(p[:], b)
	return p, nil
}

// DeriveProfile is the id of the profile that id makes when nobody has it yet. after is
// the deleted profile that had it before, zero if there was none: who comes back is somebody new.
func DeriveProfile(tenant string, id Identifier, after ProfileID) (p ProfileID) {
	h := sum("profile", tenant, string(rune(id.Kind)), id.Value, string(after[:]))
	copy(p[:], h[:])
	return p
}

// sum hashes strings so that no two lists of them are alike.
func sum(parts ...string) [sha256.Size]byte {
	var b []byte
	for _, p := range parts {
		b = appendString(b, p)
	}
	return sha256.Sum256(b)
}

// MetricID names a metric: what kind of thing happened. It is derived from the tenant, the service
// that reports it and its name. The zero value is none.
type MetricID uint64

// DeriveMetric is the id of a metric.
func DeriveMetric(tenant, service, name string) MetricID {
	h := sum("metric", tenant, service, name)
	return MetricID(binary.BigEndian.Uint64(h[:]) | 1)
}

// String is the form that the API uses: 13 characters.
func (m MetricID) String() string {
	return text.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(m)))
}

// ParseMetricID reads the form of String, in either case.
func ParseMetricID(s string) (MetricID, error) {
	b, err := text.DecodeString(strings.ToLower(s))
	if err != nil || len(b) != 8 {
		return 0, ErrBadID
	}
	return MetricID(binary.BigEndian.Uint64(b)), nil
}

// TenantID stands for a tenant in the keys of states: its name hashed. That no two
// configured tenants have the same is checked at the start.
type TenantID uint64

// TenantIDOf hashes a tenant's name.
func TenantIDOf(tenant string) TenantID {
	h := sum("tenant", tenant)
	return TenantID(binary.BigEndian.Uint64(h[:]))
}

// IdentifierKind says what an identifier is. A lower one is stronger: where several
// are given with an event, the strongest decides whose it is.
type IdentifierKind uint8

// The kinds of identifiers, strongest first. Their numbers are in the logs.
const (
	ByProfile IdentifierKind = iota // a profile id itself, in its text form
	ByExternal
	ByEmail
	ByPhone
	ByAnonymous
)

// String is the name that the API has for it.
func (k IdentifierKind) String() string {
	return [...]string{"id", "external_id", "email", "phone_number", "anonymous_id"}[k]
}

// Identifier is one normalised identifier of a profile within its tenant.
type Identifier struct {
	Kind  IdentifierKind
	Value string
}

// PartitionOf is the partition of the first log whose owner knows whose an identifier is.
func PartitionOf(tenant string, id Identifier, partitions int32) int32 {
	var h xxhash.Digest
	h.Reset()
	_, _ = h.WriteString(tenant)
	_, _ = h.Write([]byte{0, byte(id.Kind)})
	_, _ = h.WriteString(id.Value)
	return int32(h.Sum64() % uint64(partitions))
}

// Partition is the partition of the second log that a profile is in.
func (p ProfileID) Partition(partitions int32) int32 {
	return int32(binary.BigEndian.Uint64(p[:8]) % uint64(partitions))
}

// Home is the partition of the first log that decides for a whole tenant, such as on merges.
func Home(tenant string, partitions int32) int32 {
	return int32(xxhash.Sum64String(tenant) % uint64(partitions))
}

// ObjectPartition is the partition of the second log, and for those who write it also of the first one, that a document of a tenant
// is in.
func ObjectPartition(tenant, objectID string, partitions int32) int32 {
	var h xxhash.Digest
	h.Reset()
	_, _ = h.WriteString(tenant)
	_, _ = h.WriteString("\x00object\x00")
	_, _ = h.WriteString(objectID)
	return int32(h.Sum64() % uint64(partitions))
}
