//go:build cgo

package duckdb

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// columnsOf are the names of the columns of a shelf's sorted tables, as the database has them.
func columnsOf(t *testing.T, d *DB, s *shelf) (out []string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range s.runs {
		if r.level == 0 {
			continue
		}
		err := d.each(context.Background(), sqlTableColumns(s.table(r)), func(scan func(...any) error) error {
			var name, typ string
			err := scan(&name, &typ)
			out = append(out, name)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// profileTexts are some columns of all profiles, by their emails.
func profileTexts(t *testing.T, d *DB, columns string) string {
	t.Helper()
	rows, err := d.Query(context.Background(), warehouse.Statement{SQL: "SELECT " + columns + " FROM profiles ORDER BY email"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var out []string
	for rows.Next() {
		out = append(out, fmt.Sprint(rows.Row()))
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	return strings.Join(out, " ")
}

// What nobody has is no column of a sorted table; what somebody gets later becomes one, and is lost neither by a merge nor by a restart.
func TestSortedTablesHaveTheColumnsThatAreUsed(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	o := testOptions()
	d, err := open(ctx, dir, o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	tell := func(n int, attributes, properties string) {
		email := fmt.Sprintf("p%d@x.test", n)
		who := []fact.Identifier{{Kind: fact.ByEmail, Value: email}}
		err := d.Append(ctx, &warehouse.Batch{Changes: []warehouse.Change{{Tenant: "acme", Profile: fact.DeriveProfile("acme", who[0], fact.ProfileID{}), At: time.UnixMilli(1_790_000_000_000), Who: who,
			Change: &fact.Change{Attributes: []byte(attributes), Properties: []byte(properties)}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Sort(ctx); err != nil {
			t.Fatal(err)
		}
	}
	tell(0, `{"first_name":"Ann"}`, `{"tier":"gold"}`)
	columns := columnsOf(t, d, d.profiles)
	for name, want := range map[string]bool{"email": true, "first_name": true, "p_tier": true, "properties": true, "suppressed": true, "city": false, "consent": false, "latitude": false, "external_id": false} {
		if slices.Contains(columns, name) != want {
			t.Errorf("there is a column %s: %v", name, !want)
		}
	}
	tell(1, `{"location":{"city":"Bern","latitude":46.9}}`, `{"age":7}`)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = open(ctx, dir, o, Deps{}); err != nil {
		t.Fatal(err)
	}
	for i := 2; i < 2*fan; i++ { // more than one merge of a level
		tell(i, `{}`, `{"tier":5}`)
	}
	tell(0, `{"last_name":"Lee"}`, `{}`)
	const columnsAsked = "email, first_name, last_name, city, latitude, zip, p_tier, p_age, properties"
	want := profileTexts(t, d, columnsAsked)
	if !strings.HasPrefix(want, `[p0@x.test Ann Lee <nil> <nil> <nil> gold <nil> <nil>] `) || !strings.Contains(want, `[p1@x.test <nil> <nil> Bern 46.9 <nil> <nil> 7 <nil>]`) ||
		!strings.Contains(want, `[p9@x.test <nil> <nil> <nil> <nil> <nil> 5 <nil> {"tier":5}]`) {
		t.Error(want)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = open(ctx, dir, o, Deps{}); err != nil {
		t.Fatal(err)
	}
	if got := profileTexts(t, d, columnsAsked); got != want {
		t.Errorf("after a restart: %s, not %s", got, want)
	}
}

func TestFormats(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	for _, c := range []struct {
		before int
		opens  bool
	}{{formatVersion, true}, {fullTables, true}, {formatVersion, true}, {formatVersion + 1, false}} {
		d, err := open(ctx, dir, testOptions(), Deps{})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.exec(ctx, fmt.Sprintf("UPDATE store.settings SET value = %d WHERE name = 'version'", c.before)); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if d, err = open(ctx, dir, testOptions(), Deps{}); (err == nil) != c.opens {
			t.Fatalf("format %d: %v", c.before, err)
		}
		if err != nil {
			return
		}
		version := int64(0)
		err = d.each(ctx, sqlSettings, func(scan func(...any) error) error {
			var name string
			var value int64
			err := scan(&name, &value)
			if name == "version" {
				version = value
			}
			return err
		})
		if err != nil || version != formatVersion {
			t.Errorf("a database of format %d has format %d when it was opened: %v", c.before, version, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
