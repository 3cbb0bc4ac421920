package feed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/quietdb"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/ingest"
)

// StoreOptions are what a configuration file can set.
type StoreOptions struct {
	Keep  units.Duration `toml:"keep" doc:"How long it is known what a message was about, from its acceptance: later opens and clicks are not completed with its campaign and flow any more."`
	Cache units.Size     `toml:"cache" doc:"Memory for what is known of messages."`
}

// DefaultStoreOptions returns 60 days, 16 MiB.
func DefaultStoreOptions() StoreOptions {
	return StoreOptions{Keep: units.Duration(60 * 24 * time.Hour), Cache: 16 << 20}
}

// Validate returns an error that begins with the key at fault.
func (o StoreOptions) Validate() error {
	switch {
	case o.Keep.D() < 24*time.Hour:
		return errors.New("keep: must be at least 24h")
	case o.Cache < 1<<20:
		return errors.New("cache: must be at least 1MiB")
	}
	return nil
}

// Store knows what messages are about: an ingest.Hydrator on disk. Format: docs/formats/messages.md.
// It is safe for concurrent use.
type Store struct {
	o  StoreOptions
	db *pebble.DB

	mu     sync.Mutex
	common map[string]uint32 // logical messages that are written: key to the day
}

const (
	storeVersion = 1
	copyPrefix   = 'm' // one recipient's copy
	commonPrefix = 'c' // what all copies of a campaign's or flow's message have in common
	maxCommon    = 10000
)

// Entry is a message to be known.
type Entry struct {
	Tenant  string
	ID      mail.ID
	Message ingest.Message
}

// OpenStore opens the store in a folder, making it where there is none.
func OpenStore(dir string, o StoreOptions) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	cache := pebble.NewCache(int64(o.Cache))
	defer cache.Unref()
	db, err := pebble.Open(dir, &pebble.Options{Cache: cache, MemTableSize: 8 << 20, FormatMajorVersion: pebble.FormatNewest, Logger: quietdb.Logger("feed")})
	if err != nil {
		return nil, fmt.Errorf("feed: messages: %w", err)
	}
	return &Store{o: o, db: db, common: map[string]uint32{}}, nil
}

// Close closes the store.
func (s *Store) Close() error { return s.db.Close() }

func copyKey(id mail.ID) []byte { return append([]byte{copyPrefix}, id[:]...) }

func commonKey(tenant, name string) []byte {
	b := binary.BigEndian.AppendUint64([]byte{commonPrefix}, uint64(fact.TenantIDOf(tenant)))
	return append(b, name...)
}

// value is version, day, tenant and the fields.
func value(tenant string, day uint32, m ingest.Message) []byte {
	b := binary.BigEndian.AppendUint32([]byte{storeVersion}, day)
	b = binary.BigEndian.AppendUint64(b, uint64(fact.TenantIDOf(tenant)))
	for _, f := range fields(&m) {
		b = append(binary.AppendUvarint(b, uint64(len(*f))), *f...)
	}
	return b
}

// fields are those of a message in the order of the format.
func fields(m *ingest.Message) []*string {
	return []*string{&m.Campaign, &m.CampaignName, &m.Flow, &m.Message, &m.MessageName, &m.Variation, &m.Subject, &m.Domain, &m.Provider}
}

// parse reads a value if it is of the tenant. What a later version has behind the fields is passed over.
func parse(tenant string, b []byte) (m ingest.Message, day uint32, ok bool) {
	if len(b) < 13 || b[0] != storeVersion || binary.BigEndian.Uint64(b[5:]) != uint64(fact.TenantIDOf(tenant)) {
		return m, 0, false
	}
	day = binary.BigEndian.Uint32(b[1:])
	b = b[13:]
	for _, f := range fields(&m) {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return m, 0, false
		}
		*f = string(b[size:][:n])
		b = b[size+int(n):]
	}
	return m, day, true
}

// dayOf counts days since 1970.
func dayOf(t time.Time) uint32 { return uint32(max(t.Unix(), 0) / 86400) }

// Put makes messages known, durably.
func (s *Store) Put(now time.Time, all []Entry) error {
	if len(all) == 0 {
		return nil
	}
	b := s.db.NewBatch()
	defer b.Close()
	day := dayOf(now)
	for _, e := range all {
		if err := b.Set(copyKey(e.ID), value(e.Tenant, day, e.Message), nil); err != nil {
			return fmt.Errorf("feed: messages: %w", err)
		}
		if e.Message.Message == "" || !s.first(e, day) {
			continue
		}
		m := e.Message
		m.Domain, m.Provider = "", ""
		if err := b.Set(commonKey(e.Tenant, m.Message), value(e.Tenant, day, m), nil); err != nil {
			return fmt.Errorf("feed: messages: %w", err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		s.mu.Lock()
		clear(s.common)
		s.mu.Unlock()
		return fmt.Errorf("feed: messages: %w", err)
	}
	return nil
}

// first reports whether a logical message is not written yet on this day.
func (s *Store) first(e Entry, day uint32) bool {
	key := string(commonKey(e.Tenant, e.Message.Message))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.common[key] == day {
		return false
	}
	if len(s.common) >= maxCommon {
		clear(s.common)
	}
	s.common[key] = day
	return true
}

// Message implements ingest.Hydrator.
func (s *Store) Message(tenant, id string) (ingest.Message, bool) {
	if id == "" {
		return ingest.Message{}, false
	}
	key := commonKey(tenant, id)
	if copied, err := mail.ParseID(strings.ToLower(id)); err == nil {
		key = copyKey(copied)
	}
	v, closer, err := s.db.Get(key)
	if err != nil {
		return ingest.Message{}, false // an event is better incomplete than refused
	}
	m, _, ok := parse(tenant, v)
	if closer.Close() != nil {
		return ingest.Message{}, false
	}
	return m, ok
}

// Expire forgets what is older than is to be kept.
func (s *Store) Expire(now time.Time) error {
	before := now.Add(-s.o.Keep.D())
	var end mail.ID // the first 48 bits of an id are the milliseconds of its making
	ms := binary.BigEndian.AppendUint64(nil, uint64(before.UnixMilli()))
	copy(end[:6], ms[2:])
	if err := s.db.DeleteRange(copyKey(mail.ID{}), copyKey(end), pebble.NoSync); err != nil {
		return fmt.Errorf("feed: messages: %w", err)
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{commonPrefix}, UpperBound: []byte{commonPrefix + 1}})
	if err != nil {
		return fmt.Errorf("feed: messages: %w", err)
	}
	return errors.Join(s.expireCommon(it, dayOf(before)), closed(it))
}

func (s *Store) expireCommon(it *pebble.Iterator, before uint32) error {
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("feed: messages: %w", err)
		}
		if len(v) >= 5 && v[0] == storeVersion && binary.BigEndian.Uint32(v[1:]) >= before {
			continue
		}
		if err := s.db.Delete(it.Key(), pebble.NoSync); err != nil {
			return fmt.Errorf("feed: messages: %w", err)
		}
	}
	return nil
}

func closed(c io.Closer) error {
	if err := c.Close(); err != nil {
		return fmt.Errorf("feed: messages: %w", err)
	}
	return nil
}
