package queue

import (
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// dropOver finishes messages past their life or deadline.
func (q *Queue) dropOver(group []*item, provider string, o *Options, now time.Time) []*item {
	kept := group[:0:len(group)]
	for _, it := range group {
		reason, yes := over(it.msg, o.rule(it.msg, provider).expiry(it.msg), now)
		if !yes {
			kept = append(kept, it)
			continue
		}
		out := expiredOutcome(it.msg, reason, now)
		q.finishLocked([]*item{it}, &out, provider)
	}
	return kept
}

func expiredOutcome(m *mail.Message, reason string, now time.Time) mail.Outcome {
	text := reason
	if m.LastReply != "" {
		text += "; last reply: " + m.LastReply
	}
	return mail.Outcome{Kind: mail.Bounced, Class: mail.ClassExpired, Started: now,
		Reply: mail.Reply{Code: 554, Enhanced: "5.4.7", Text: text}}
}

// expireReady drops what is ready and past its time: under a limit, or while
// its site is suspended, a message may wait long for a session that would notice.
func (q *Queue) expireReady() {
	q.mu.Lock()
	defer q.mu.Unlock()
	o, now := q.options(), time.Now()
	for _, s := range q.names {
		if s.fifo.len() > 0 && q.anyOver(s, o, now) {
			q.expireQueue(s, o, now)
		}
	}
}

func (q *Queue) anyOver(s *sched, o *Options, now time.Time) bool {
	for i := range s.fifo.len() {
		m := s.fifo.at(i).msg
		if _, yes := over(m, o.rule(m, s.provider()).expiry(m), now); yes {
			return true
		}
	}
	return false
}

func (q *Queue) expireQueue(s *sched, o *Options, now time.Time) {
	st := s.site
	if st != nil {
		st.detach(s)
	}
	for _, it := range q.dropOver(s.fifo.take(), s.provider(), o, now) {
		s.fifo.push(it)
	}
	q.activate(s)
	if st != nil {
		q.tidy(st)
	}
}

// provider is that of the queue's route, "" while it is not known.
func (s *sched) provider() string {
	if s.route == nil {
		return ""
	}
	return s.route.Provider
}
