package crowd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// revision is the version of the API that requests name.
const revision = "2026-07-15"

// conn is one HTTP/1.1 connection. net/http's client costs more than what it calls here: the load
// source shares its CPUs with what is measured.
type conn struct {
	addr string
	c    net.Conn
	r    *bufio.Reader
	out  []byte
}

// post sends a body and returns the status of the answer, and the body of one that is not 2xx.
func (c *conn) post(ctx context.Context, path, key string, body []byte, timeout time.Duration) (status int, answer []byte, err error) {
	if c.c == nil {
		var d net.Dialer
		if c.c, err = d.DialContext(ctx, "tcp", c.addr); err != nil {
			return 0, nil, err
		}
		c.r = bufio.NewReaderSize(c.c, 16<<10)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := c.c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return 0, nil, err
	}
	c.out = append(c.out[:0], "POST "...)
	c.out = append(append(c.out, path...), " HTTP/1.1\r\nHost: crowd.test\r\nContent-Type: application/vnd.api+json\r\nrevision: "+revision+"\r\nAuthorization: Klaviyo-API-Key "...)
	c.out = append(append(c.out, key...), "\r\nContent-Length: "...)
	c.out = strconv.AppendInt(c.out, int64(len(body)), 10)
	c.out = append(append(c.out, "\r\n\r\n"...), body...)
	if _, err := c.c.Write(c.out); err != nil {
		return 0, nil, err
	}
	return c.answer()
}

// answer reads one answer with a Content-Length or chunks.
func (c *conn) answer() (status int, body []byte, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, nil, fmt.Errorf("crowd: not an HTTP answer: %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, fmt.Errorf("crowd: not an HTTP answer: %q", line)
	}
	length, chunked, last := 0, false, false
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return 0, nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, nil, fmt.Errorf("crowd: content length %q", value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		case bytes.EqualFold(name, []byte("Connection")):
			last = bytes.EqualFold(value, []byte("close"))
		}
	}
	if chunked {
		body, err = c.chunks()
	} else {
		body = make([]byte, length)
		_, err = io.ReadFull(c.r, body)
	}
	if last {
		c.close()
	}
	return status, body, err
}

func (c *conn) chunks() (body []byte, err error) {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return nil, fmt.Errorf("crowd: chunk %q", line)
		}
		at := len(body)
		body = append(body, make([]byte, n+2)...)
		if _, err := io.ReadFull(c.r, body[at:]); err != nil {
			return nil, err
		}
		if body = body[:at+int(n)]; n == 0 {
			return body, nil
		}
	}
}

func (c *conn) close() {
	if c.c != nil {
		_ = c.c.Close() // nothing is expected of it any more
		c.c = nil
	}
}
