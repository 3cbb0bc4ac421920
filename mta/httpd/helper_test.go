package httpd

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// stalled is a request body whose bytes do not come in time.
type stalled struct{}

func (stalled) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
func (stalled) Close() error             { return nil }

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

// BenchmarkMessages tells what a recipient of a full batch costs, the queue apart.
func BenchmarkMessages(b *testing.B) {
	var rows []string
	for i := range 10_000 {
		rows = append(rows, fmt.Sprintf(`{"address":"user%d@example%d.org","name":"User %d","substitutions":{"first":"Ada","n":%d,"city":"London"},"tags":{"row":"%d"}}`, i, i%10, i, i, i))
	}
	html, _ := json.Marshal(strings.Repeat("<p>Hello {{ first }}</p>", 2000))
	body := `{"content":{"from":"a@example.com","subject":"x","html":` + string(html) + `},"recipients":[` + strings.Join(rows, ",") + `]}`
	s := setup(b)
	b.ReportAllocs()
	for b.Loop() {
		s.queue.batches = nil
		r := httptest.NewRequest("POST", "/v1/messages", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+keyAcme)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		if s.server.Handler().ServeHTTP(w, r); w.Code != 202 {
			b.Fatal(w.Code, w.Body)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10_000, "ns/recipient")
}
