// Package keyedtest looks into the files of a state, for tests of what is in them.
package keyedtest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Having returns the files under a folder that have some bytes: as they are, or in a key or value of a table of Pebble, whose blocks
// are compressed. Rows that are deleted or written over count as long as they are in a file. Files that go while it looks have nothing.
func Having(dir string, marker []byte) (names []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return gone(err)
		}
		has, err := file(path, marker)
		if has {
			names = append(names, path)
		}
		return gone(err)
	})
	return names, gone(err)
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// file looks into one file. A table that is still being written cannot be read before it is whole, or gone.
func file(path string, marker []byte) (has bool, err error) {
	const patience, pause = 10 * time.Second, 10 * time.Millisecond
	for began := time.Now(); ; time.Sleep(pause) {
		b, err := os.ReadFile(path)
		if err != nil || bytes.Contains(b, marker) {
			return err == nil, err
		}
		if filepath.Ext(path) != ".sst" {
			return false, nil
		}
		if has, err = table(b, marker); err == nil || time.Since(began) > patience {
			return has, err
		}
	}
}

// table reads all rows of a table, tombstones too.
func table(b, marker []byte) (found bool, err error) {
	mem := vfs.NewMem()
	w, err := mem.Create("t", vfs.WriteCategoryUnspecified)
	if err != nil {
		return false, err
	}
	_, err = w.Write(b)
	if err = errors.Join(err, w.Close()); err != nil {
		return false, err
	}
	f, err := mem.Open("t")
	if err != nil {
		return false, err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return false, errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(context.Background(), readable, sstable.ReaderOptions{Mergers: sstable.Mergers{
		"godwit.none": {Name: "godwit.none"}, "godwit.keyed": {Name: "godwit.keyed"}}}) // nothing is merged here
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for kv := it.First(); kv != nil; kv = it.Next() {
		v, _, err := kv.Value(nil)
		if err != nil {
			return false, err
		}
		if bytes.Contains(kv.K.UserKey, marker) || bytes.Contains(v, marker) {
			return true, nil
		}
	}
	return false, nil
}
