package customer

import (
	"bytes"
	"errors"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// MemberQuery asks who is on a list.
type MemberQuery struct {
	List       string
	Joined     Range
	Descending bool // who joined last comes first
	Cursor     string
	Size       int // 20 unless given, at most 1,000
}

// Member is a profile on a list.
type Member struct {
	Profile fact.ProfileID
	Joined  time.Time
}

// MemberPage is a part of an answer, in the order of joining. Cursor asks for the next one; it is empty behind the last.
type MemberPage struct {
	Members []Member
	Cursor  string
}

// Members returns who is on a list. Whether there is such a list is not looked at.
func (r *Reader) Members(tenant string, q MemberQuery) (*MemberPage, error) {
	ask := question{tenant: fact.TenantIDOf(tenant), kind: prefixMember, detail: q.List, back: q.Descending}
	after, err := ask.place(q.Cursor)
	if err != nil {
		return nil, err
	}
	s := span{prefix: appendName(appendTenant(nil, prefixMember, ask.tenant), q.List), after: after, back: q.Descending}
	s.from, s.to = q.Joined.keys()
	rows, next, err := r.page(s, pageSize(q.Size), func(_ State, at, _ []byte) (any, bool, error) {
		if len(at) != 8+len(fact.ProfileID{}) {
			return nil, false, errDamaged("membership")
		}
		m := Member{Joined: millis(millisIn(at))}
		copy(m.Profile[:], at[8:])
		return m, true, nil
	})
	if err != nil {
		return nil, err
	}
	out := &MemberPage{Members: make([]Member, len(rows)), Cursor: ask.cursor(next)}
	for i := range rows {
		out.Members[i] = rows[i].item.(Member)
	}
	return out, nil
}

// Object is a document of a tenant.
type Object struct {
	ID   string
	Data []byte // JSON
}

// Object returns a document of a type, or ErrNotFound.
func (r *Reader) Object(tenant, typ, id string) (*Object, error) {
	key := append(appendName(appendTenant(nil, prefixObject, fact.TenantIDOf(tenant)), typ), id...)
	s, err := r.store(fact.ObjectPartition(tenant, id, r.partitions))
	if err != nil {
		return nil, err
	}
	v, err := s.Get(key)
	if errors.Is(err, keyed.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	data, err := objectData(v)
	return &Object{id, data}, err
}

func objectData(v []byte) ([]byte, error) {
	if len(v) == 0 || v[0] != rowVersion {
		return nil, errDamaged("object")
	}
	return v[1:], nil
}

// ObjectPage is a part of an answer, in the order of ids. Cursor asks for the next one; it is empty behind the last.
type ObjectPage struct {
	Objects []Object
	Cursor  string
}

// Objects returns the documents of a type.
func (r *Reader) Objects(tenant, typ, cursor string, size int) (*ObjectPage, error) {
	ask := question{tenant: fact.TenantIDOf(tenant), kind: prefixObject, detail: typ}
	after, err := ask.place(cursor)
	if err != nil {
		return nil, err
	}
	s := span{prefix: appendName(appendTenant(nil, prefixObject, ask.tenant), typ), after: after}
	rows, next, err := r.page(s, pageSize(size), func(_ State, _, value []byte) (any, bool, error) {
		data, err := objectData(bytes.Clone(value))
		return data, true, err
	})
	if err != nil {
		return nil, err
	}
	out := &ObjectPage{Objects: make([]Object, len(rows)), Cursor: ask.cursor(next)}
	for i := range rows {
		out.Objects[i] = Object{string(rows[i].at), rows[i].item.([]byte)}
	}
	return out, nil
}
