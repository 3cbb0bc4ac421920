package wire

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
)

// Route is one method of one path, as the OpenAPI document names it.
type Route struct {
	Method string
	Path   string // pattern of http.ServeMux without the method: /v1/messages/{id}
	Handle http.HandlerFunc
}

// Mux serves routes and nothing else: an unknown path is a 404, another
// method of a known path a 405 with Allow, both with the error document.
func Mux(routes []Route) http.Handler {
	mux := http.NewServeMux()
	allow := map[string][]string{}
	for _, r := range routes {
		mux.HandleFunc(r.Method+" "+r.Path, r.Handle)
		allow[r.Path] = append(allow[r.Path], r.Method)
		if r.Method == http.MethodGet {
			allow[r.Path] = append(allow[r.Path], http.MethodHead)
		}
	}
	for path, methods := range allow {
		slices.Sort(methods)
		list := strings.Join(methods, ", ")
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			NewProblem(http.StatusMethodNotAllowed, CodeMethodNotAllowed,
				"this path takes "+list).With("Allow", list).Write(w)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		NewProblem(http.StatusNotFound, CodeNotFound, "no such path").Write(w)
	})
	return mux
}

// Guard turns a panic of next into a 500 with the error document and a log
// entry with the stack; the connection is closed when the answer had begun.
func Guard(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tracked := &started{ResponseWriter: w}
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			log.Error("HTTP handler panicked", "method", r.Method, "path", r.URL.Path,
				"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			if tracked.begun {
				panic(http.ErrAbortHandler)
			}
			NewProblem(http.StatusInternalServerError, CodeInternal, "").Write(w)
		}()
		next.ServeHTTP(tracked, r)
	})
}

// started notes whether the response has begun.
type started struct {
	http.ResponseWriter
	begun bool
}

// WriteHeader implements http.ResponseWriter.
func (s *started) WriteHeader(code int) {
	s.begun = true
	s.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (s *started) Write(b []byte) (int, error) {
	s.begun = true
	return s.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (s *started) Unwrap() http.ResponseWriter { return s.ResponseWriter }
