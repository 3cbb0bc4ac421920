# make            lists the targets
# make check      is what CI runs
SHELL := /bin/bash
GO ?= go
export GOFLAGS ?= -mod=readonly
PKGS := ./...

.DEFAULT_GOAL := help
.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z][a-z0-9_-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

.PHONY: build
build: ## Build the program into bin/godwit
	$(GO) build -o bin/godwit ./cmd/godwit

.PHONY: demo
demo: ## Run the demo
	$(GO) run ./cmd/godwit demo

.PHONY: check
check: fmt-check vet lint nocgo unit race fuzz-seeds generated e2e client interop egress crash-short ## Everything CI runs

.PHONY: fmt-check
fmt-check:
	@out=$$(gofmt -l cmd config mta queue throttle proxy bounce pipeline internal test); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi

.PHONY: vet
vet:
	$(GO) vet $(PKGS)

.PHONY: lint
lint: ## staticcheck
	$(GO) tool staticcheck $(PKGS)

.PHONY: nocgo
nocgo: ## The program builds without cgo (crypto/rsa then signs)
	CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/godwit

.PHONY: unit
unit: ## Unit tests
	$(GO) test $(PKGS)

.PHONY: race
race: ## Unit tests of everything with goroutines, under the race detector
	$(GO) test -race -short ./mta/... ./queue/... ./throttle/... ./proxy/... ./pipeline/... ./internal/stream/... ./internal/keyed ./internal/records ./internal/cluster ./internal/seglog ./internal/event ./internal/passwd ./internal/wire ./internal/trace ./internal/debugz ./internal/sink ./internal/load

.PHONY: fuzz-seeds
fuzz-seeds: ## Every fuzzer on its seeds
	$(GO) test -run '^Fuzz' $(PKGS)

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## Each fuzzer for FUZZTIME
	@set -e; for pkg in $$($(GO) list $(PKGS)); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; done; done

.PHONY: generate
generate: ## Write the generated pages
	$(GO) run ./cmd/godwit config reference > docs/CONFIG.md
	$(GO) test ./internal/event -run TestDoc -update
	$(GO) test ./cmd/godwit -run TestDoc -update
	GODWIT_REWRITE=1 $(GO) test -count=1 ./mta/httpd ./mta/adminapi ./pipeline/api

.PHONY: generated
generated: ## The generated pages are as the code says
	@$(GO) run ./cmd/godwit config reference | diff -u docs/CONFIG.md - || { echo "run: make generate"; exit 1; }

.PHONY: e2e
e2e: build ## Cases against the real program
	$(GO) test -count=1 -tags e2e ./test/e2e/...

.PHONY: client
client: ## The public JavaScript client of the API against ours; skipped without Node.js
	$(GO) test -count=1 -tags client ./test/client/...

.PHONY: interop
interop: build ## Other people's software as judge; GODWIT_INTEROP=require makes a missing one a failure
	$(GO) test -count=1 -tags interop ./test/interop/...

.PHONY: egress
egress: build ## Limits, proxies and the cluster under kills and network faults
	$(GO) test -count=1 -tags egress -timeout 15m ./test/egress/...

ROUNDS ?= 100
.PHONY: crash-short
crash-short: build ## kill -9 and power cut, 20 rounds each
	GODWIT_ROUNDS=20 $(GO) test -count=1 -tags crash -timeout 15m ./test/crash/...

.PHONY: crash
crash: build ## kill -9 and power cut, ROUNDS rounds each
	GODWIT_ROUNDS=$(ROUNDS) $(GO) test -count=1 -tags crash -timeout 120m ./test/crash/...

.PHONY: bench-relay
bench-relay: build ## The relay benchmark: prints BENCH lines
	$(GO) run ./test/bench relay -godwit bin/godwit

.PHONY: bench-egress
bench-egress: build ## Limits over a cluster, proxies, many sites, fairness: prints BENCH lines
	$(GO) run ./test/bench egress -godwit bin/godwit

.PHONY: bench-pipeline
bench-pipeline: build ## Ingest, counts, profiles: prints BENCH lines
	$(GO) run ./test/bench pipeline -godwit bin/godwit

.PHONY: bench
bench: bench-relay bench-egress bench-pipeline ## Every benchmark
