package main

import (
	"github.com/godwit-mta/godwit/pipeline"
	"github.com/godwit-mta/godwit/pipeline/peer"
)

// peersOf is how the pipeline reaches those of other nodes; nil where there is no cluster.
func (s *server) peersOf() *pipeline.Peers {
	if !s.file.Cluster.Enabled() {
		return nil
	}
	c := s.engine.Cluster()
	return &pipeline.Peers{
		Node:  c.Name(),
		Trust: peer.Trust{Server: c.ServerTLS(), Client: c.ClientTLS(), Token: c.Token("pipeline")},
		Others: func() (nodes []peer.Node) {
			for _, m := range c.Members() {
				if !m.Self && m.Present() && m.Pipeline != "" {
					nodes = append(nodes, peer.Node{Name: m.Name, Address: m.Pipeline})
				}
			}
			return nodes
		},
	}
}

// peerAddress is where other nodes reach the pipeline; "" while they do not.
func (s *server) peerAddress() string {
	if p := s.peerAt.Load(); p != nil {
		return *p
	}
	return ""
}
