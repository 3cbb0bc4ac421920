// Package nodes runs the pipeline of several real processes in a cluster, over brokers in the test's process:
//
//	make build && go test -tags e2e ./test/e2e/nodes
package nodes
