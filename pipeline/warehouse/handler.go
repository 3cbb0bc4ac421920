package warehouse

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/godwit-mta/godwit/internal/wire"
)

const (
	maxQuery     = 1 << 20
	defaultLimit = 1000
)

// request is the body of POST /sql.
type request struct {
	Query  string `json:"query"`
	Args   []any  `json:"args"`
	Limit  int    `json:"limit"`
	Tenant string `json:"tenant"`
}

// Handler answers POST with {query, args, limit, tenant}: a statement that reads, its arguments, how many rows at most (1,000
// unless given), and the tenant whose rows alone it may see, "" for all. Who may call it is for others to decide.
func Handler(w Asker, o Options) http.Handler {
	return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			wire.NewProblem(http.StatusMethodNotAllowed, wire.CodeMethodNotAllowed, "use POST").With("Allow", http.MethodPost).Write(out)
			return
		}
		s, problem := readRequest(out, r, o)
		if problem != nil {
			problem.Write(out)
			return
		}
		a, err := Ask(r.Context(), w, s)
		if err != nil {
			problemOf(err).Write(out)
			return
		}
		wire.Write(out, http.StatusOK, a)
	})
}

func readRequest(w http.ResponseWriter, r *http.Request, o Options) (s Statement, _ *wire.Problem) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuery))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return s, wire.NewProblem(http.StatusRequestEntityTooLarge, wire.CodeTooLarge, fmt.Sprintf("the body is larger than %d bytes", maxQuery))
	case err != nil:
		return s, wire.NewProblem(http.StatusBadRequest, wire.CodeInvalidBody, err.Error())
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	d.DisallowUnknownFields()
	var in request
	if err := d.Decode(&in); err != nil {
		return s, wire.NewProblem(http.StatusBadRequest, wire.CodeInvalidJSON, err.Error())
	}
	if in.Limit < 0 || in.Limit > o.QueryRows {
		return s, wire.NewProblem(http.StatusBadRequest, wire.CodeInvalidValue, fmt.Sprintf("limit must be between 1 and %d", o.QueryRows)).At("/limit", "limit")
	}
	if in.Limit == 0 {
		in.Limit = min(defaultLimit, o.QueryRows)
	}
	s = Statement{Tenant: in.Tenant, SQL: in.Query, Limit: in.Limit}
	for i, v := range in.Args {
		a, ok := Argument(v)
		if !ok {
			return s, wire.NewProblem(http.StatusBadRequest, wire.CodeInvalidValue, "an argument must be a text, number, boolean or null").At(fmt.Sprintf("/args/%d", i), "args")
		}
		s.Args = append(s.Args, a)
	}
	return s, nil
}

// problemOf tells what became of a statement.
func problemOf(err error) *wire.Problem {
	var e *SQLError
	switch {
	case errors.As(err, &e):
		p := wire.NewProblem(http.StatusBadRequest, wire.CodeInvalidValue, e.Message).At("/query", "query")
		p.Errors[0].Line, p.Errors[0].Column = e.Line, e.Column
		return p
	case errors.Is(err, ErrBusy):
		return wire.NewProblem(http.StatusServiceUnavailable, wire.CodeOverloaded, err.Error()).After(time.Second)
	case errors.Is(err, context.DeadlineExceeded):
		return wire.NewProblem(http.StatusGatewayTimeout, wire.CodeTimeout, "the query took longer than it may")
	}
	return wire.NewProblem(http.StatusInternalServerError, wire.CodeInternal, err.Error())
}
