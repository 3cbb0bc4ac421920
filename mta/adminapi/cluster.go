package adminapi

import (
	"context"
	"errors"
	"time"
)

// Cluster shows the members as this node sees them.
type Cluster interface {
	Members(ctx context.Context) (ClusterResponse, error)
}

// Handoff moves the messages of this node's queue to other members. It goes on
// in the background and after a restart, until it is done or stopped.
type Handoff interface {
	// StartHandoff begins, or widens one that runs. What cannot be wraps ErrHandoff.
	StartHandoff(ctx context.Context, r HandoffRequest) (HandoffStatus, error)
	// StopHandoff ends it; what was not moved stays here.
	StopHandoff(ctx context.Context) (HandoffStatus, error)
	HandoffStatus(ctx context.Context) (HandoffStatus, error)
}

// ErrHandoff is wrapped by StartHandoff when there is no one to hand messages to.
var ErrHandoff = errors.New("cannot hand the queue over")

// Member is a node or proxy of the cluster.
type Member struct {
	Name         string    `json:"name" doc:"Name."`
	Role         string    `json:"role" doc:"mta or proxy."`
	Zone         string    `json:"zone,omitempty" doc:"Zone."`
	Self         bool      `json:"self,omitempty" doc:"Whether it is the node that answers."`
	State        string    `json:"state" enum:"alive,suspect,dead,left,missing" doc:"As gossip has it; missing: configured and never seen. Of a proxy outside of gossip: whether there is contact."`
	Seen         time.Time `json:"seen,omitzero" doc:"When it was heard of last."`
	Address      string    `json:"address,omitempty" doc:"Address for gossip."`
	Link         string    `json:"link,omitempty" doc:"Address for permits."`
	Contact      bool      `json:"contact" doc:"Whether this node has contact for permits."`
	Version      string    `json:"version,omitempty" doc:"Version of the program."`
	ConfigDigest string    `json:"config_digest,omitempty" doc:"Digest of its shared configuration."`
	Drift        bool      `json:"drift,omitempty" doc:"Whether its rules or sources differ from those of the node that answers."`
	Draining     bool      `json:"draining,omitempty" doc:"Whether it takes no new mail."`
	Messages     int64     `json:"messages,omitempty" doc:"Messages in its queue."`
	Connections  int       `json:"connections,omitempty" doc:"Its open connections."`
	Sources      []string  `json:"sources,omitempty" doc:"Sources that it owns."`
}

// The states of a member.
const (
	MemberAlive   = "alive"
	MemberSuspect = "suspect"
	MemberDead    = "dead"
	MemberLeft    = "left"
	MemberMissing = "missing"
)

// ClusterResponse lists members.
type ClusterResponse struct {
	Node    string   `json:"node" doc:"Name of the node that answers."`
	Members []Member `json:"members" doc:"By name."`
	Records int      `json:"records" doc:"Shared records: orders, suspensions and actions."`
	Digest  string   `json:"digest,omitempty" doc:"Digest of the shared records; the same on nodes that agree."`
}

// HandoffRequest begins a handoff.
type HandoffRequest struct {
	To []string `json:"to,omitempty" doc:"Members to hand messages to; absent: every one that takes mail."`
}

// HandoffTarget is what one member took.
type HandoffTarget struct {
	Name     string `json:"name" doc:"Member."`
	Messages int64  `json:"messages" doc:"Messages that it has taken."`
	State    string `json:"state,omitempty" doc:"What is the matter with it, if something is."`
}

// HandoffStatus is how far a handoff is.
type HandoffStatus struct {
	State      string          `json:"state" enum:"none,running,done,stopped" doc:"none: never begun."`
	Started    time.Time       `json:"started,omitzero" doc:"When it began."`
	Ended      time.Time       `json:"ended,omitzero" doc:"When it ended."`
	Total      int64           `json:"total" doc:"Messages there were when it began."`
	Moved      int64           `json:"moved" doc:"Messages that others have taken."`
	Delivered  int64           `json:"delivered,omitempty" doc:"Messages that ended here meanwhile."`
	Left       int64           `json:"left" doc:"Messages still here."`
	Delivering int64           `json:"delivering,omitempty" doc:"Those of them that are being delivered; they are waited for."`
	Rate       float64         `json:"rate,omitempty" doc:"Messages moved a second, of late."`
	Targets    []HandoffTarget `json:"targets" doc:"Who took how many."`
	Error      string          `json:"error,omitempty" doc:"What keeps it from going on; it tries again."`
}

// The states of a handoff.
const (
	HandoffNone    = "none"
	HandoffRunning = "running"
	HandoffDone    = "done"
	HandoffStopped = "stopped"
)
