package trace

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

func TestRecorder(t *testing.T) {
	r := New(2)
	r.Add("a", "A", 'C', "EHLO x")
	if got := len(r.Traces()); got != 0 {
		t.Fatalf("recorded %d traces while off", got)
	}
	r.On(time.Hour)
	for i := range 3 {
		r.Add(fmt.Sprint(i), "T", 'C', strings.Repeat("x", 1000))
	}
	traces := r.Traces()
	if len(traces) != 2 {
		t.Fatalf("%d traces kept, want 2", len(traces))
	}
	for _, tr := range traces {
		if tr.Key == "0" {
			t.Error("the oldest trace was kept")
		}
		if got := len(tr.Lines[0].Text); got > maxLine+4 {
			t.Errorf("line of %d bytes", got)
		}
	}
	for range maxLines + 5 {
		r.Add("2", "T", 'S', "250 ok")
	}
	for _, tr := range r.Traces() {
		if tr.Key == "2" && (len(tr.Lines) != maxLines || tr.Dropped != 6) {
			t.Errorf("%d lines, %d dropped", len(tr.Lines), tr.Dropped)
		}
	}
	r.On(0)
	if r.Active() {
		t.Error("still on")
	}
}

func TestConn(t *testing.T) {
	r := New(4)
	r.On(time.Hour)
	a, b := net.Pipe()
	defer func() { _ = b.Close() }()
	c := r.Conn(a, "k", "to mx")
	go func() { _, _ = b.Read(make([]byte, 4096)); _, _ = b.Write([]byte("250-a\r\n250 b\r\n")) }()
	if _, err := c.Write([]byte(strings.Repeat("d", 2000))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range r.Traces()[0].Lines {
		got = append(got, string(l.From)+l.Text)
	}
	if want := "C(2000 bytes) S250-a S250 b"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", strings.Join(got, " "), want)
	}
}
