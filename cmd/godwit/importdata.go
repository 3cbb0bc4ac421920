package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/pipeline/ingest/importer"
)

// importDataFlags are what both kinds of import have in common.
type importDataFlags struct {
	File string `arg:"" help:"File to import; - is standard input, which cannot be resumed." type:"path"`

	API    string `default:"http://127.0.0.1:8028" placeholder:"URL" help:"The pipeline's API." group:"Server"`
	Key    string `env:"GODWIT_IMPORT_KEY" required:"" placeholder:"KEY" help:"API key; it says whose data this is." group:"Server"`
	Config string `short:"c" type:"existingfile" placeholder:"FILE" help:"TOML file with all options, as \"godwit import events --help\" names them; flags win over it."`

	Format    *string           `enum:"csv,ndjson" placeholder:"FORMAT" help:"csv or ndjson; by the file's name unless given." group:"What"`
	Delimiter *string           `placeholder:"CHAR" help:"What separates columns." group:"What"`
	Email     *string           `placeholder:"COLUMN" help:"Column or path of the email address." group:"What"`
	Phone     *string           `placeholder:"COLUMN" help:"Column or path of the phone number." group:"What"`
	External  *string           `placeholder:"COLUMN" help:"Column or path of the external id." group:"What"`
	Attribute map[string]string `placeholder:"NAME=COLUMN" help:"Attribute of the profile, such as first_name=\"First name\"." group:"What"`
	Property  map[string]string `placeholder:"NAME=COLUMN" help:"Custom property of the profile." group:"What"`

	Rejects string `type:"path" placeholder:"FILE" help:"File for rows that were not taken, with their lines; beside the input unless given." group:"Report"`
	JSON    bool   `name:"json" help:"Print the report as JSON." group:"Report"`
}

type importEventsCmd struct {
	importDataFlags
	Metric     *string  `placeholder:"NAME" help:"Metric of all events." group:"What"`
	MetricFrom *string  `placeholder:"COLUMN" help:"Column or path of the metric's name." group:"What"`
	Time       *string  `placeholder:"COLUMN" help:"Column or path of the time." group:"What"`
	TimeFormat *string  `placeholder:"FORM" help:"unix, unix_ms, or a layout of Go; ISO 8601 unless given." group:"What"`
	TimeZone   *string  `placeholder:"ZONE" help:"Zone of times that have none." group:"What"`
	Value      *string  `placeholder:"COLUMN" help:"Column or path of the value." group:"What"`
	UniqueID   *string  `placeholder:"COLUMN" help:"Column or path of the unique id; made of the file and the line unless given." group:"What"`
	Properties []string `placeholder:"COLUMN" help:"Columns or paths that become properties; all others unless given." group:"What"`
}

// Help teaches by example.
func (importEventsCmd) Help() string {
	return `Sends events of a CSV or NDJSON file to the pipeline in bulk jobs. An import that was interrupted
goes on where it was when it is started again with the same flags; nothing counts twice.

Examples:
  godwit import events orders.csv --email Email --metric "Placed Order" --time "Ordered at" --value Total --key "$KEY"
  godwit import events events.ndjson --email '$.customer.email' --metric-from '$.type' --time '$.at' --key "$KEY"`
}

type importProfilesCmd struct{ importDataFlags }

// Help teaches by example.
func (importProfilesCmd) Help() string {
	return `Examples:
  godwit import profiles customers.csv --email Email --attribute first_name="First name" --property plan=Plan --key "$KEY"`
}

// Run imports events.
func (c *importEventsCmd) Run(e *env) error {
	o, err := c.options(importer.Events)
	if err != nil {
		return err
	}
	m := &o.Mapping
	for _, f := range []struct {
		to   *string
		flag *string
	}{{&m.Metric, c.Metric}, {&m.MetricFrom, c.MetricFrom}, {&m.Time, c.Time}, {&m.TimeFormat, c.TimeFormat}, {&m.TimeZone, c.TimeZone}, {&m.Value, c.Value}, {&m.UniqueID, c.UniqueID}} {
		set(f.to, f.flag)
	}
	if len(c.Properties) > 0 {
		m.Properties = c.Properties
	}
	return c.run(e, o)
}

// Run imports profiles.
func (c *importProfilesCmd) Run(e *env) error {
	o, err := c.options(importer.Profiles)
	if err != nil {
		return err
	}
	return c.run(e, o)
}

func (c *importDataFlags) options(kind string) (importer.Options, error) {
	o := importer.DefaultOptions()
	if c.Config != "" {
		if err := readOptions(c.Config, &o); err != nil {
			return o, err
		}
	}
	o.Kind = kind
	if ext := strings.ToLower(filepath.Ext(c.File)); c.Config == "" && (ext == ".ndjson" || ext == ".jsonl" || ext == ".json") {
		o.Format = importer.NDJSON
	}
	set(&o.Format, c.Format)
	set(&o.Delimiter, c.Delimiter)
	p := &o.Mapping.Profile
	set(&p.Email, c.Email)
	set(&p.Phone, c.Phone)
	set(&p.External, c.External)
	if len(c.Attribute) > 0 {
		p.Attributes = c.Attribute
	}
	if len(c.Property) > 0 {
		p.Properties = c.Property
	}
	if c.File == "-" {
		o.Seed = "stdin-" + strconv.FormatInt(time.Now().UnixNano(), 36)
		o.Rejects = c.Rejects
		return o, nil
	}
	o.Checkpoint, o.Rejects = c.File+".checkpoint", c.File+".rejects"
	if c.Rejects != "" {
		o.Rejects = c.Rejects
	}
	return o, nil
}

func (c *importDataFlags) run(e *env, o importer.Options) error {
	if err := o.Validate(); err != nil {
		return usageError{fmt.Errorf("import: %w", err)}
	}
	in, size, err := c.open()
	if err != nil {
		return usageError{err}
	}
	defer func() { _ = in.Close() }() // it was only read
	var read atomic.Int64
	stop := showProgress(e, size, read.Load)
	jobs := &jobSink{c: c, o: o}
	p, err := importer.Import(e.ctx, in, o, jobs.send, func(p importer.Progress) { read.Store(p.Bytes) })
	stop()
	if err != nil {
		if o.Checkpoint != "" {
			return fmt.Errorf("import: %w; %s were taken; run the same command again to go on", err, show.Plural(p.Rows-p.Rejected, "row"))
		}
		return fmt.Errorf("import: %w", err)
	}
	if c.JSON {
		return show.JSON(e.out, map[string]int64{"rows": p.Rows, "taken": p.Rows - p.Rejected, "rejected": p.Rejected})
	}
	page := show.New(e.out)
	page.Pairs([2]string{"rows", show.Count(p.Rows)}, [2]string{"taken", show.Count(p.Rows - p.Rejected)}, [2]string{"rejected", show.Count(p.Rejected)})
	if p.Rejected > 0 && o.Rejects != "" {
		page.Printf("%s\n", page.Warn("rows that were not taken, with the reasons: "+o.Rejects))
	}
	return nil
}

func (c *importDataFlags) open() (io.ReadCloser, int64, error) {
	if c.File == "-" {
		return io.NopCloser(os.Stdin), 0, nil
	}
	f, err := os.Open(c.File)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// jobSink sends batches as bulk jobs.
type jobSink struct {
	c *importDataFlags
	o importer.Options
}

// jobAnswer is what is used of a job's resource.
type jobAnswer struct {
	Data struct {
		ID         string `json:"id"`
		Attributes struct {
			Failed int        `json:"failed_count"`
			Errors []jobError `json:"errors"`
		} `json:"attributes"`
	} `json:"data"`
}

type jobError struct {
	Detail string `json:"detail"`
	Source struct {
		Pointer string `json:"pointer"`
	} `json:"source"`
}

// Patience with a server that is busy or restarting.
const (
	importTries = 8
	importPause = 250 * time.Millisecond
)

// send implements importer.Sink. A server that is away for a moment is asked again: unique ids make that harmless.
func (j *jobSink) send(ctx context.Context, rows []importer.Row) ([]importer.Reject, error) {
	path := "/api/event-bulk-create-jobs"
	if j.o.Kind == importer.Profiles {
		path = "/api/profile-bulk-import-jobs"
	}
	var out jobAnswer
	if err := j.persist(ctx, http.MethodPost, path, j.o.Document(rows), &out); err != nil {
		return nil, err
	}
	errs := out.Data.Attributes.Errors
	if j.o.Kind == importer.Profiles && out.Data.Attributes.Failed > 0 {
		var err error
		if errs, err = j.importErrors(ctx, out.Data.ID); err != nil {
			return nil, err
		}
	}
	return j.rejects(rows, errs), nil
}

// importErrors asks for the errors of a profile job.
func (j *jobSink) importErrors(ctx context.Context, id string) (all []jobError, err error) {
	for path := "/api/profile-bulk-import-jobs/" + id + "/import-errors?page[size]=1000"; path != ""; {
		var page struct {
			Data []struct {
				Attributes jobError `json:"attributes"`
			} `json:"data"`
			Links struct {
				Next string `json:"next"`
			} `json:"links"`
		}
		if err := j.persist(ctx, http.MethodGet, path, nil, &page); err != nil {
			return nil, err
		}
		for _, d := range page.Data {
			all = append(all, d.Attributes)
		}
		_, path, _ = strings.Cut(page.Links.Next, strings.TrimPrefix(strings.TrimPrefix(j.c.API, "http://"), "https://"))
	}
	return all, nil
}

var itemOf = regexp.MustCompile(`/data/(\d+)(/|$)`)

// rejects ties errors to the lines of the rows they are about.
func (j *jobSink) rejects(rows []importer.Row, errs []jobError) []importer.Reject {
	var out []importer.Reject
	for _, e := range errs {
		r := importer.Reject{Column: j.o.Where(e.Source.Pointer), Reason: e.Detail}
		if m := itemOf.FindStringSubmatch(e.Source.Pointer); m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil && n < len(rows) {
				r.Line = rows[n].Line
			}
		}
		if n := len(out); n > 0 && out[n-1].Line == r.Line {
			out[n-1].Reason += "; " + r.Reason // one reject a row
			continue
		}
		out = append(out, r)
	}
	return out
}

func (j *jobSink) persist(ctx context.Context, method, path string, body []byte, out any) error {
	pause := importPause
	for try := 1; ; try++ {
		again, err := j.call(ctx, method, path, body, out)
		if err == nil || !again || try == importTries {
			return err
		}
		select {
		case <-time.After(pause):
			pause *= 2
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// call makes one request; again says that it may be made once more.
func (j *jobSink) call(ctx context.Context, method, path string, body []byte, out any) (again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(j.c.API, "/")+path, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	r.Header.Set("Authorization", "Klaviyo-API-Key "+j.c.Key)
	r.Header.Set("revision", apiRevision)
	r.Header.Set("Content-Type", "application/vnd.api+json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return ctx.Err() == nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return true, err
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return true, fmt.Errorf("%s: %.300s", resp.Status, text)
	case resp.StatusCode/100 != 2:
		return false, fmt.Errorf("%s: %.300s", resp.Status, text)
	}
	return false, json.Unmarshal(text, out)
}

// apiRevision is the version of the API that requests name.
const apiRevision = "2026-07-15"
