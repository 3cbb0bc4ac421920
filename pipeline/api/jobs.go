package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// The kinds of jobs; they are the types of their documents as well.
const (
	kindImport      = "profile-bulk-import-job"
	kindImportError = "import-error"
	kindSuppress    = "profile-suppression-bulk-create-job"
	kindUnsuppress  = "profile-suppression-bulk-delete-job"
	kindSubscribe   = "profile-subscription-bulk-create-job"
	kindUnsubscribe = "profile-subscription-bulk-delete-job"
)

// Bounds of jobs.
const (
	maxImport       = 10_000 // profiles
	maxPeople       = 1000   // of the other jobs
	errorsPerChunk  = 100    // errors of an import in one document
	errorChunkBytes = 256 << 10
)

func jobFields() []string {
	return []string{"completed_at", "completed_count", "created_at", "expires_at", "failed_count", "id", "skipped_count", "started_at", "status", "total_count"}
}

func (s *Server) jobEndpoints() []endpoint {
	fields := func(kind string) jsonapi.Spec { return jsonapi.Spec{Fields: map[string][]string{kind: jobFields()}} }
	page := func(kind string) jsonapi.Spec {
		out := fields(kind)
		out.Size, out.MaxSize = 20, 1000
		out.Filters = jsonapi.Allow{"status": {jsonapi.Equals, jsonapi.Any}}
		return out
	}
	failed := jsonapi.Spec{Fields: map[string][]string{kindImportError: {"code", "detail", "id", "original_payload", "source", "source.pointer", "title"}}, Size: 20, MaxSize: 1000}
	const imports, suppress, unsuppress = "/api/profile-bulk-import-jobs", "/api/profile-suppression-bulk-create-jobs", "/api/profile-suppression-bulk-delete-jobs"
	accepted := openapi.Response{Status: http.StatusAccepted, Doc: "Accepted, durably."}
	job := success(http.StatusAccepted, "Accepted, durably.", JobResponse{})
	return []endpoint{
		act(http.MethodPost, imports, "bulkImportProfiles", "Make or change many profiles. The good ones are taken, errors of the others can be listed.",
			fields(kindImport), ImportRequest{}, job, s.postImport),
		look(imports, "getBulkImportProfilesJobs", "List imports, the oldest first.", page(kindImport), JobsResponse{}, s.jobs(kindImport)),
		look(imports+"/{id}", "getBulkImportProfilesJob", "Get an import.", fields(kindImport), JobResponse{}, s.job(kindImport)),
		look(imports+"/{id}/import-errors", "getErrorsForBulkImportProfilesJob", "List the errors of an import.", failed, ImportErrorsResponse{}, s.getImportErrors),
		act(http.MethodPost, "/api/profile-subscription-bulk-create-jobs", "bulkSubscribeProfiles", "Record that people subscribed.",
			jsonapi.Spec{}, SubscriptionRequest{}, accepted, s.subscriber(true)),
		act(http.MethodPost, "/api/profile-subscription-bulk-delete-jobs", "bulkUnsubscribeProfiles",
			"Record that people unsubscribed. With a list, who is not on it is unsubscribed from all.", jsonapi.Spec{}, SubscriptionRequest{}, accepted, s.subscriber(false)),
		act(http.MethodPost, suppress, "bulkSuppressProfiles", "Stop mail to people.", fields(kindSuppress), SuppressionRequest{}, job, s.suppressor(true)),
		look(suppress, "getBulkSuppressProfilesJobs", "List jobs, the oldest first.", page(kindSuppress), JobsResponse{}, s.jobs(kindSuppress)),
		look(suppress+"/{id}", "getBulkSuppressProfilesJob", "Get a job.", fields(kindSuppress), JobResponse{}, s.job(kindSuppress)),
		act(http.MethodPost, unsuppress, "bulkUnsuppressProfiles", "Take back what suppression jobs did; other suppressions stay.", fields(kindUnsuppress),
			SuppressionRequest{}, job, s.suppressor(false)),
		look(unsuppress, "getBulkUnsuppressProfilesJobs", "List jobs, the oldest first.", page(kindUnsuppress), JobsResponse{}, s.jobs(kindUnsuppress)),
		look(unsuppress+"/{id}", "getBulkUnsuppressProfilesJob", "Get a job.", fields(kindUnsuppress), JobResponse{}, s.job(kindUnsuppress)),
	}
}

// storedJob is a job's document.
type storedJob struct {
	JobView
	Lists  []string `json:"lists,omitempty"`
	Chunks int      `json:"chunks,omitempty"` // documents of errors
}

func (c *call) newJob(total, completed, failed int) storedJob {
	return storedJob{JobView: JobView{Status: "complete", CreatedAt: c.at, StartedAt: c.at, CompletedAt: c.at,
		TotalCount: &total, CompletedCount: &completed, FailedCount: &failed}}
}

func (c *call) jobResource(kind, id string, j storedJob) resource {
	r := resource{Type: kind, ID: id, Attributes: c.sparse(kind, j.JobView), Links: c.self(kind+"s", id)}
	if len(j.Lists) > 0 {
		var to ManyRefs
		for _, l := range j.Lists {
			to.Data = append(to.Data, jsonapi.Ref{Type: kindList, ID: l})
		}
		r.Relationships = JobRelationships{Lists: to}
	}
	return r
}

func (s *Server) storedJob(c *call, kind string) (j storedJob, err error) {
	o, err := s.deps.Profiles.Object(c.tenant, kind, c.r.PathValue("id"))
	if errors.Is(err, customer.ErrNotFound) {
		return j, jsonapi.NotFound("there is no job with the id %q", c.r.PathValue("id"))
	}
	if err == nil {
		err = json.Unmarshal(o.Data, &j)
	}
	return j, err
}

func (s *Server) job(kind string) func(*call) (answer, error) {
	return func(c *call) (answer, error) {
		j, err := s.storedJob(c, kind)
		if err != nil {
			return answer{}, err
		}
		return answer{status: http.StatusOK, body: one{Data: c.jobResource(kind, c.r.PathValue("id"), j)}}, nil
	}
}

func (s *Server) jobs(kind string) func(*call) (answer, error) {
	return func(c *call) (answer, error) {
		page, err := s.deps.Profiles.Objects(c.tenant, kind, c.query.Cursor, c.query.Size)
		if err != nil {
			return answer{}, err
		}
		out := many{Data: []resource{}, Links: c.pages(page.Cursor)}
		for _, o := range page.Objects {
			var j storedJob
			if err := json.Unmarshal(o.Data, &j); err != nil {
				return answer{}, fmt.Errorf("api: job %s: %w", o.ID, err)
			}
			if c.query.Filter.Match(func(leaf *jsonapi.Filter) bool {
				return slices.ContainsFunc(leaf.Values, func(v jsonapi.Value) bool { return v.Text == j.Status })
			}) {
				out.Data = append(out.Data, c.jobResource(kind, o.ID, j))
			}
		}
		return answer{status: http.StatusOK, body: out}, nil
	}
}

// postImport takes the good profiles of a job with one append, together with the job and the errors of the others.
func (s *Server) postImport(c *call) (answer, error) {
	in, err := decode(s.decoders.job, c.body)
	if err != nil {
		return answer{}, err
	}
	const at = "/data/attributes/profiles/data"
	profiles := in.Data.Attributes.Profiles.Data
	switch {
	case in.Data.Type != kindImport:
		return answer{}, jsonapi.Invalid("/data/type", "must be %q", kindImport)
	case len(profiles) == 0 || len(profiles) > maxImport:
		return answer{}, jsonapi.Invalid(at, "must have 1 to %d profiles", maxImport)
	}
	lists, err := s.importLists(c, in.Data.Relationships)
	if err != nil {
		return answer{}, err
	}
	id := c.newID(kindImport)
	var records []*fact.Intake
	var failed rejects
	for i, raw := range profiles {
		r, err := s.importItem(c, raw, at+"/"+strconv.Itoa(i), lists)
		if errs := jsonapi.Of(err); errs != nil {
			failed.add(id, errs, raw)
			continue
		}
		if err != nil {
			return answer{}, err
		}
		records = append(records, r)
	}
	job := c.newJob(len(profiles), len(records), failed.items)
	job.Lists, job.Chunks = lists, len(failed.chunks)
	for i, chunk := range failed.chunks {
		o, err := c.object(kindImportError, chunkID(id, i), chunk)
		if err != nil {
			return answer{}, err
		}
		records = append(records, o)
	}
	return s.putJob(c, kindImport, id, job, records)
}

// putJob puts the records of a job with its document.
func (s *Server) putJob(c *call, kind, id string, j storedJob, records []*fact.Intake) (answer, error) {
	o, err := c.object(kind, id, j)
	if err != nil {
		return answer{}, err
	}
	at, err := s.deps.Door.Put(c.ctx, append(records, o))
	if err != nil {
		return answer{}, err
	}
	s.visible(c, at)
	return answer{status: http.StatusAccepted, body: one{Data: c.jobResource(kind, id, j)}}, nil
}

func (s *Server) importLists(c *call, r *ImportRelationships) ([]string, error) {
	if r == nil {
		return nil, nil
	}
	var ids []string
	for i, ref := range r.Lists.Data {
		if err := s.wantList(c, ref, fmt.Sprintf("/data/relationships/lists/data/%d", i)); err != nil {
			return nil, err
		}
		ids = append(ids, ref.ID)
	}
	return ids, nil
}

// wantList checks that the body's reference at pointer names a list.
func (s *Server) wantList(c *call, ref jsonapi.Ref, pointer string) error {
	if ref.Type != kindList {
		return jsonapi.Invalid(pointer+"/type", "must be %q", kindList)
	}
	_, err := s.list(c, ref.ID)
	if errs := jsonapi.Of(err); errs != nil {
		return jsonapi.Invalid(pointer+"/id", "there is no list with the id %q", ref.ID)
	}
	return err
}

func (s *Server) importItem(c *call, raw wire.Object, at string, lists []string) (*fact.Intake, error) {
	if raw == nil {
		return nil, jsonapi.Invalid(at, "must be a profile")
	}
	in, err := s.readProfile(c, raw, at)
	if err != nil {
		return nil, err
	}
	if in.id != "" {
		id, err := s.known(c, in.id, at+"/id")
		if err != nil {
			return nil, err
		}
		in.who = append([]fact.Identifier{{Kind: fact.ByProfile, Value: id.String()}}, in.who...)
	}
	if len(in.who) == 0 {
		return nil, jsonapi.Invalid(at+"/attributes", needs)
	}
	for _, l := range lists {
		in.change.Lists = append(in.change.Lists, fact.Membership{List: l, Join: true})
	}
	return &fact.Intake{Kind: fact.KindChange, Tenant: c.tenant, At: c.at, Who: in.who, Change: in.change}, nil
}

// storedError is an error of an import as it is stored.
type storedError struct {
	ID string `json:"id"`
	ImportErrorView
}

// rejects collects errors in documents of a size that a log takes.
type rejects struct {
	items  int
	chunks [][]storedError
	bytes  int
}

func (f *rejects) add(job string, errs jsonapi.Errors, payload wire.Object) {
	f.items++
	for i, e := range errs {
		out := storedError{ID: fmt.Sprintf("%s-%d-%d", job, f.items, i), ImportErrorView: ImportErrorView{Code: e.Code, Title: e.Title, Detail: e.Detail,
			Source: jsonapi.ErrorSource{Pointer: e.Pointer, Parameter: e.Parameter}}}
		if i == 0 && len(payload) > 0 && len(payload) <= errorChunkBytes/4 {
			out.OriginalPayload = payload
			f.bytes += len(payload)
		}
		if n := len(f.chunks); n == 0 || len(f.chunks[n-1]) >= errorsPerChunk || f.bytes > errorChunkBytes {
			f.chunks = append(f.chunks, nil)
			f.bytes = len(payload)
		}
		n := len(f.chunks) - 1
		f.chunks[n] = append(f.chunks[n], out)
	}
}

func chunkID(job string, i int) string { return job + "-" + strconv.Itoa(i) }

// getImportErrors pages through the documents of errors: the cursor is document and place in it.
func (s *Server) getImportErrors(c *call) (answer, error) {
	j, err := s.storedJob(c, kindImport)
	if err != nil {
		return answer{}, err
	}
	chunk, place, err := errorCursor(c.query.Cursor)
	if err != nil {
		return answer{}, err
	}
	out := many{Data: []resource{}}
	next := ""
	for ; chunk < j.Chunks && next == ""; chunk, place = chunk+1, 0 {
		o, err := s.deps.Profiles.Object(c.tenant, kindImportError, chunkID(c.r.PathValue("id"), chunk))
		if errors.Is(err, customer.ErrNotFound) {
			continue // it is not applied yet
		}
		if err != nil {
			return answer{}, err
		}
		var all []storedError
		if err := json.Unmarshal(o.Data, &all); err != nil {
			return answer{}, fmt.Errorf("api: errors %s: %w", o.ID, err)
		}
		for ; place < len(all); place++ {
			if len(out.Data) == c.query.Size {
				next = fmt.Sprintf("%d.%d", chunk, place)
				break
			}
			e := all[place]
			out.Data = append(out.Data, resource{Type: kindImportError, ID: e.ID, Attributes: c.sparse(kindImportError, e.ImportErrorView)})
		}
	}
	out.Links = c.pages(next)
	return answer{status: http.StatusOK, body: out}, nil
}

func errorCursor(cursor string) (chunk, place int, err error) {
	if cursor == "" {
		return 0, 0, nil
	}
	a, b, _ := strings.Cut(cursor, ".")
	chunk, err = strconv.Atoi(a)
	if err == nil {
		place, err = strconv.Atoi(b)
	}
	if err != nil || chunk < 0 || place < 0 {
		return 0, 0, customer.ErrCursor
	}
	return chunk, place, nil
}
