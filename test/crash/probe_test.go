//go:build crash

package crash

import (
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// awaitRefusal offers mail until both doors refuse it, and returns what they
// said: the SMTP reply, and the HTTP status with its Retry-After.
func (w *world) awaitRefusal() (smtp, web string) {
	w.t.Helper()
	err := rig.Eventually(func() error {
		var err error
		if smtp, err = w.offerSMTP(); err != nil {
			return err
		}
		if web, err = w.offerHTTP(); err != nil {
			return err
		}
		if strings.HasPrefix(smtp, "2") || strings.HasPrefix(web, "2") {
			return fmt.Errorf("mail is still taken: %s, %s", smtp, web)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return smtp, web
}

// offerSMTP injects one message and returns the first reply that refuses it, or the last.
func (w *world) offerSMTP() (string, error) {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.params.SMTP))
	if err != nil {
		return "", err
	}
	_ = conn.SetDeadline(time.Now().Add(rig.Patience / 3)) // a refusal must come in time
	c := textproto.NewConn(conn)
	defer func() { _ = c.Close() }()
	var code int
	var text string
	for _, line := range []string{"", "EHLO probe.test", "MAIL FROM:<probe@source.test>", "RCPT TO:<probe@e0.test>", "DATA",
		"Subject: probe\r\n\r\nprobe\r\n."} {
		if line != "" {
			if err := c.PrintfLine("%s", line); err != nil {
				return "", err
			}
		}
		if code, text, err = c.ReadResponse(0); code == 0 {
			return "", err
		}
		if code >= 400 {
			break
		}
	}
	return fmt.Sprintf("%d %s", code, text), nil
}

// offerHTTP injects one message and returns the status line.
func (w *world) offerHTTP() (string, error) {
	req, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/v1/messages", w.params.HTTP), strings.NewReader(
		`{"content": {"from": "probe@source.test", "subject": "probe", "text": "probe"}, "reverse_path": "probe@source.test", "recipients": [{"address": "probe@e0.test"}]}`))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+apiKey)
	client := http.Client{Timeout: rig.Patience / 3}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	return fmt.Sprintf("%s, Retry-After: %s", resp.Status, resp.Header.Get("Retry-After")), nil
}
