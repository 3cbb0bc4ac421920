package cluster

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// lineLog turns the lines that memberlist logs into records of slog.
type lineLog struct {
	log *slog.Logger

	mu    sync.Mutex
	since time.Time // beginning of the minute
	count int       // warnings in it
}

// warningsPerMinute bounds the lines that a peer with a wrong key, or a port scanner, can cause. The rest are debug lines.
const warningsPerMinute = 10

func newLogger(to *slog.Logger) *log.Logger { return log.New(&lineLog{log: to}, "", 0) }

// Write implements io.Writer for one line such as "[WARN] memberlist: text".
func (l *lineLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := slog.LevelDebug // who comes and goes is logged elsewhere
	if tag, rest, ok := strings.Cut(text, "] "); ok && strings.HasPrefix(tag, "[") {
		text = strings.TrimPrefix(rest, "memberlist: ")
		if (tag == "[WARN" || tag == "[ERR" || tag == "[ERROR") && l.allow(time.Now()) {
			level = slog.LevelWarn
		}
	}
	l.log.Log(context.Background(), level, "gossip", "text", text)
	return len(line), nil
}

func (l *lineLog) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= time.Minute {
		l.since, l.count = now, 0
	}
	l.count++
	return l.count <= warningsPerMinute
}
