package importer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/ingest"
	"github.com/godwit-mta/godwit/pipeline/ingest/mapping"
	"pgregory.net/rapid"
)

func options() Options {
	o := DefaultOptions()
	o.Mapping = mapping.Event{Profile: mapping.Profile{Email: "mail", External: "nr"}, Metric: "Bought", Time: "when", Value: "sum"}
	return o
}

// collect is a sink that keeps all rows.
func collect(to *[]Row) Sink {
	return func(_ context.Context, rows []Row) ([]Reject, error) {
		*to = append(*to, rows...)
		return nil, nil
	}
}

func rejectsOf(t *testing.T, path string) (out []Reject) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var r Reject
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// event is what the API sees of an item.
type event struct {
	Attributes struct {
		Profile struct {
			Data struct{ Attributes map[string]any }
		}
		Events struct {
			Data []struct{ Attributes map[string]any }
		}
	}
}

func TestCSV(t *testing.T) {
	o := options()
	o.Rejects = filepath.Join(t.TempDir(), "rejects")
	o.Delimiter, o.Text = ";", []string{"code"}
	in := "\xef\xbb\xbfmail;nr;when; what ;sum;code;n\r\n" +
		"a@b.example;007;2026-01-01;\"red; \"\"big\"\"\nshoe\";1.50;12;12\r\n" +
		"\r\n" +
		"short;row\n" +
		"c@d.example;;;5\" pipe;;;1e5\n" +
		"e@f.example;;;\"x\"y;;;\n" +
		"g@h.example;1;;\xff;;;\n" +
		"i@j.example;1;;;much;;\n" +
		"k@l.example;2;;;;;true"
	var rows []Row
	p, err := Import(context.Background(), strings.NewReader(in), o, collect(&rows), nil)
	if err != nil || p != (Progress{int64(len(in)), int64(len(in)), 7, 4}) {
		t.Fatal(p, err)
	}
	var lines []int64
	var got []string
	for _, r := range rows {
		var e event
		if err := json.Unmarshal(r.Item, &e); err != nil {
			t.Fatal(err)
		}
		a := e.Attributes.Events.Data[0].Attributes
		lines = append(lines, r.Line)
		got = append(got, fmt.Sprintf("%v %v %v %v", e.Attributes.Profile.Data.Attributes, a["properties"], a["time"], a["value"]))
		if uid := a["unique_id"].(string); !strings.HasSuffix(uid, fmt.Sprintf("-%d", r.Line)) || !strings.HasPrefix(uid, "import-") {
			t.Error(uid)
		}
	}
	want := []string{
		"map[email:a@b.example external_id:007] map[code:12 n:12 what:red; \"big\"\nshoe] 2026-01-01 1.5",
		`map[email:c@d.example] map[n:1e5 what:5" pipe] <nil> <nil>`,
		"map[email:k@l.example external_id:2] map[n:true] <nil> <nil>",
	}
	if !reflect.DeepEqual(lines, []int64{2, 6, 10}) || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%s", lines, strings.Join(got, "\n"))
	}
	wantRejects := []Reject{{5, "", "the row has 2 columns, the first line has 7"}, {7, "", "something follows a closing quote"},
		{8, "", `column "what" is not UTF-8`}, {9, "sum", `"much" is not a number`}}
	if got := rejectsOf(t, o.Rejects); !reflect.DeepEqual(got, wantRejects) {
		t.Errorf("%+v", got)
	}
	if !bytes.Contains(rows[0].Item, []byte(`"code":"12"`)) || !bytes.Contains(rows[0].Item, []byte(`"n":12`)) {
		t.Errorf("%s", rows[0].Item)
	}
}

func TestNDJSON(t *testing.T) {
	o := options()
	o.Format, o.MaxRow, o.Kind = NDJSON, 60, Profiles
	o.Mapping.Profile.Email = "$.user.mail"
	o.Rejects = filepath.Join(t.TempDir(), "rejects")
	in := `{"user":{"mail":"a@b.example"}}` + "\n\n[1]\n{\n" + `{"user":{}} x` + "\n" + strings.Repeat(" ", 61) + "\n\"\xff\"\n" + `{"user":{"mail":[]}}` + "\n" + `{"user":{"mail":"c@d.example"}}`
	var rows []Row
	p, err := Import(context.Background(), strings.NewReader(in), o, collect(&rows), nil)
	if err != nil || len(rows) != 2 || p.Rows != 8 || p.Rejected != 6 {
		t.Fatal(p, err, len(rows))
	}
	if got := string(o.Document(rows)); got != `{"data":{"type":"profile-bulk-import-job","attributes":{"profiles":{"data":[`+
		`{"attributes":{"email":"a@b.example"},"type":"profile"},{"attributes":{"email":"c@d.example"},"type":"profile"}]}}}}` {
		t.Error(got)
	}
	var lines []int64
	for _, r := range rejectsOf(t, o.Rejects) {
		lines = append(lines, r.Line)
	}
	if !reflect.DeepEqual(lines, []int64{3, 4, 5, 6, 7, 8}) || rows[1].Line != 9 {
		t.Error(lines, rows[1].Line)
	}
}

func TestUnclosedQuote(t *testing.T) {
	o := options()
	o.MaxRow = 50
	o.Rejects = filepath.Join(t.TempDir(), "rejects")
	in := "mail,nr,when,sum\n\"a" + strings.Repeat(",b\n", 40) + "c@d.example,1,,\ne@f.example,1,,\"2"
	var rows []Row
	p, err := Import(context.Background(), strings.NewReader(in), o, collect(&rows), nil)
	if err != nil || len(rows) != 1 || rows[0].Line != 42 {
		t.Fatal(p, err, rows)
	}
	got := rejectsOf(t, o.Rejects)
	if got[0].Line != 2 || !strings.Contains(got[0].Reason, "quote is not closed") || got[len(got)-1].Line != 43 || !strings.Contains(got[len(got)-1].Reason, "end of the file") {
		t.Errorf("%+v", got)
	}
}

// TestCSVAsEncodingCSV compares records with encoding/csv.
func TestCSVAsEncodingCSV(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cell := rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", ",", `"`, "\n", " ", "ä", "\r\n", ""}), 0, 4).Draw(t, "c"), "")
		})
		n := rapid.IntRange(2, 4).Draw(t, "columns")
		records := rapid.SliceOfN(rapid.SliceOfN(cell, n, n), 1, 5).Draw(t, "records")
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		w.UseCRLF = rapid.Bool().Draw(t, "crlf")
		if err := w.WriteAll(records); err != nil {
			t.Fatal(err)
		}
		r := csv.NewReader(bytes.NewReader(b.Bytes()))
		want, err := r.ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		s := &source{r: bufio.NewReader(&b), comma: ',', most: 1 << 20}
		for _, fields := range want {
			if err := s.record(); err != nil {
				t.Fatal(err)
			}
			// encoding/csv turns CRLF within quotes into LF; here it stays.
			for i := range s.fields {
				if strings.ReplaceAll(s.fields[i], "\r\n", "\n") != fields[i] {
					t.Fatalf("%q, want %q", s.fields, fields)
				}
			}
		}
		if err := s.record(); err != io.EOF {
			t.Fatal(err)
		}
	})
}

var errBroken = errors.New("broken")

// TestInterruptions breaks an import at random points, and in a sink before or after it took a batch. Afterwards
// all rows are there, and each under one unique id; the rejects are there once.
func TestInterruptions(t *testing.T) {
	for seed := range uint64(12) {
		for _, format := range []string{CSV, NDJSON} {
			t.Run(fmt.Sprint(format, seed), func(t *testing.T) { interruptions(t, seed, format) })
		}
	}
}

func interruptions(t *testing.T, seed uint64, format string) {
	r := rand.New(rand.NewPCG(seed, 3))
	dir := t.TempDir()
	input := filepath.Join(dir, "in")
	good, bad := write(t, r, input, format)
	o := options()
	o.Format, o.Batch, o.MaxBatch = format, 5+r.IntN(30), 1000+r.IntN(9000)
	o.Checkpoint, o.Rejects = input+".checkpoint", input+".rejects"

	tp, err := stream.NewMemory().Topic(context.Background(), "intake", 2)
	if err != nil {
		t.Fatal(err)
	}
	door, err := ingest.New(ingest.DefaultOptions(), ingest.Deps{Intake: tp, Now: func() time.Time { return time.Unix(1.79e9, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	for try := 0; ; try++ {
		if try > 1000 {
			t.Fatal("the import does not come to an end")
		}
		f, err := os.Open(input)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		last := int64(-1)
		_, err = Import(ctx, f, o, func(ctx context.Context, rows []Row) ([]Reject, error) {
			switch r.IntN(8) {
			case 0:
				return nil, errBroken
			case 1:
				cancel()
			}
			_, report, err := door.Bulk(ctx, "acme", o.Document(rows), "")
			if ctx.Err() == nil && err != nil {
				t.Fatal(err)
			}
			if err != nil || r.IntN(8) == 0 {
				return nil, errBroken
			}
			var rejects []Reject
			for _, x := range report.Refused {
				rejects = append(rejects, Reject{rows[x.Item].Line, o.Where(x.Errors[0].Pointer), x.Errors[0].Detail})
			}
			return rejects, nil
		}, func(p Progress) {
			if p.Bytes < last || p.Bytes > p.Total {
				t.Fatalf("%+v after %d", p, last)
			}
			last = p.Bytes
		})
		cancel()
		f.Close()
		if err == nil {
			break
		}
		if !errors.Is(err, errBroken) && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if r.IntN(3) == 0 { // what a crash leaves behind the last checkpoint
			f, err := os.OpenFile(o.Rejects, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			f.WriteString(`{"line":1`)
			f.Close()
		}
	}
	verify(t, tp, good)
	var lines []int64
	for _, x := range rejectsOf(t, o.Rejects) {
		lines = append(lines, x.Line)
	}
	seen := map[int64]bool{}
	for _, l := range lines {
		if seen[l] || !bad[l] {
			t.Errorf("line %d is rejected wrongly", l)
		}
		seen[l] = true
	}
	if len(seen) != len(bad) {
		t.Errorf("%d rejects, want %d", len(seen), len(bad))
	}
	if _, err := os.Stat(o.Checkpoint); !errors.Is(err, os.ErrNotExist) {
		t.Error("the checkpoint was left")
	}
}

// write makes a file: the values of good rows, and the lines of bad ones.
func write(t *testing.T, r *rand.Rand, path, format string) (good map[int64]bool, bad map[int64]bool) {
	t.Helper()
	good, bad = map[int64]bool{}, map[int64]bool{}
	var b bytes.Buffer
	line := int64(1)
	if format == CSV {
		b.WriteString("mail,nr,when,sum,note\n")
		line++
	}
	for i := range int64(100 + r.IntN(100)) {
		mail, note := fmt.Sprintf("p%d@example.com", r.IntN(20)), "x"
		switch r.IntN(10) {
		case 0:
			mail = "nobody"
		case 1:
			note = "two\nlines"
		}
		if mail == "nobody" {
			bad[line] = true
		} else {
			good[i] = true
		}
		if format == NDJSON {
			fmt.Fprintf(&b, `{"mail":%q,"sum":%d,"note":%q}`+"\n", mail, i, note)
			line++
			continue
		}
		fmt.Fprintf(&b, "%s,,,%d,\"%s\"\n", mail, i, note)
		line += 1 + int64(strings.Count(note, "\n"))
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return good, bad
}

// verify reads the log: each good row is there, and what came twice has the same unique id.
func verify(t *testing.T, tp stream.Topic, good map[int64]bool) {
	t.Helper()
	ids := map[string]int64{}
	values := map[int64]string{}
	for p := range tp.Partitions() {
		end, _ := tp.End(context.Background(), p)
		if end == 0 {
			continue
		}
		rd, _ := tp.Read(context.Background(), p, 0)
		recs, err := rd.Next(context.Background(), int(end))
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			var in fact.Intake
			if err := in.Parse(rec.Data); err != nil {
				t.Fatal(err)
			}
			v := in.Event.Value / 1e6
			if old, ok := ids[in.Event.UID]; ok && old != v {
				t.Fatalf("%s is of rows %d and %d", in.Event.UID, old, v)
			}
			if old, ok := values[v]; ok && old != in.Event.UID {
				t.Fatalf("row %d came as %s and %s", v, old, in.Event.UID)
			}
			ids[in.Event.UID], values[v] = v, in.Event.UID
		}
	}
	if len(values) != len(good) {
		t.Fatalf("%d rows, want %d", len(values), len(good))
	}
	for v := range good {
		if values[v] == "" {
			t.Fatalf("row %d is missing", v)
		}
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	o := options()
	o.Checkpoint = filepath.Join(dir, "c")
	run := func(o Options, in io.Reader) error {
		_, err := Import(context.Background(), in, o, func(context.Context, []Row) ([]Reject, error) { return nil, errBroken }, nil)
		return err
	}
	const file = "mail,nr,when,sum\na@b.example,1,,\nc@d.example,1,,\n"
	for _, c := range []struct{ want, in string }{
		{"the file is empty", ""}, {"has no name", "mail,,when\n"}, {"there twice", "mail,mail\n"}, {`no column "nr"`, "mail,when,sum\n"}, {"line 1: something follows", "\"a\"b,c\n"},
	} {
		if err := run(o, strings.NewReader(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.want, err)
		}
	}
	if err := run(o, io.MultiReader(strings.NewReader(file))); err == nil || !strings.Contains(err.Error(), "cannot be read twice") {
		t.Error(err)
	}
	// A first batch is taken, the second one is not.
	n := 0
	first := o
	first.Batch = 1
	_, err := Import(context.Background(), strings.NewReader(file), first, func(context.Context, []Row) ([]Reject, error) {
		if n++; n > 1 {
			return nil, errBroken
		}
		return nil, nil
	}, nil)
	if !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	if err := run(o, strings.NewReader(file+"\n")); !errors.Is(err, ErrOther) {
		t.Error(err)
	}
	other := o
	other.Mapping.Metric = "Sold"
	if err := run(other, strings.NewReader(file)); !errors.Is(err, ErrOther) {
		t.Error(err)
	}
	var rows []Row
	if _, err := Import(context.Background(), strings.NewReader(file), o, collect(&rows), nil); err != nil || len(rows) != 1 || rows[0].Line != 3 {
		t.Error(err, rows)
	}
	if err := os.WriteFile(o.Checkpoint, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(o, strings.NewReader(file)); err == nil || !strings.Contains(err.Error(), "is not a checkpoint") {
		t.Error(err)
	}
}

func TestOptionsValidate(t *testing.T) {
	for key, change := range map[string]func(*Options){
		"kind": func(o *Options) { o.Kind = "x" }, "format": func(o *Options) { o.Format = "xml" }, "delimiter": func(o *Options) { o.Delimiter = `"` },
		"batch": func(o *Options) { o.Batch = 0 }, "mapping.metric": func(o *Options) { o.Mapping.Metric = "" }, "mapping.profile": func(o *Options) { o.Mapping.Profile = mapping.Profile{} },
	} {
		o := options()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+":") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add("a,b\n1,\"x\"\"y\"\r\n", true)
	f.Add(`{"a":1}`+"\n", false)
	f.Fuzz(func(t *testing.T, in string, isCSV bool) {
		s := &source{r: bufio.NewReader(strings.NewReader(in)), most: 20, text: map[string]bool{}}
		if isCSV {
			s.comma = ','
		}
		if s.start() != nil {
			return
		}
		for last := int64(0); ; {
			r, err := s.next()
			if err == io.EOF {
				break
			}
			if err != nil || r.line <= last && s.offset < int64(len(in)) && last > 0 || r.value == nil && r.err == nil {
				t.Fatal(r, err, last)
			}
			last = r.line
		}
		if s.offset != int64(len(in)) || s.line != 1+int64(strings.Count(in, "\n")) {
			t.Fatal(s.offset, s.line)
		}
	})
}
