VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 30s

# All files that are ours, also those not yet added to git.
ls_files := git ls-files --cached --others --exclude-standard

# $(call silent,command) fails if the command fails or prints anything, and shows what it printed.
silent = out=$$($(1)) && test -z "$$out" || { echo "$(1):"; echo "$$out"; exit 1; }

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## run everything in one process, with its own NATS and Redis
	go run ./cmd/telle dev

.PHONY: build
build: ## build the binaries into bin
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ \
		./cmd/router ./cmd/bridge ./cmd/telle

.PHONY: test
# The longest package comes first, so that the others run beside it.
test: deps ## run all tests under the race detector, and those that count allocations without it
	go test -race -count=1 -timeout 15m ./test/e2e ./...
	go test -count=1 -run Allocates ./internal/hub ./internal/socket

.PHONY: faults
faults: deps ## run the fault suite, three rounds
	go test -count=1 -timeout 60m ./test/e2e -v -faults full -rounds 3 \
		-run 'Fault|SamePayloadThrice|FiftyMegabytesBehind|TwoThousandSockets'

.PHONY: soak
soak: ## ten minutes under load, a million joins, and more: does anything grow?
	go test -count=1 -timeout 60m -p 1 ./internal/process ./test/e2e -v -soak full -run 'Soak|JoinsAndLeaves'

.PHONY: flood
flood: deps ## 10 000 sockets, half of which send garbage for 30 s: is the other half harmed?
	go test -count=1 -timeout 10m ./test/e2e -v -flood full -run Garbage

.PHONY: compose-test
compose-test: deps ## bring docker-compose.yml up in a Docker Engine of its own, and break it while events flow
	@scripts/compose-deps.sh
	go test -count=1 -timeout 55m ./test/compose -v -compose full

.PHONY: monitoring
monitoring: deps ## test alerts and dashboards: by cases, and on what real processes show
	go test -count=1 -v ./test/monitoring

.PHONY: browser
browser: deps ## play the console's and the widget's story in Chromium, with routers that die; pictures go to test/browser/artifacts
	go test -count=1 -v ./test/browser

.PHONY: screenshots
screenshots: deps ## take the pictures in docs/images anew
	go test -count=1 ./test/browser -run TestBrowser -pictures '$(CURDIR)/docs/images'

.PHONY: lint
lint: ## check format, vet, staticcheck, modernity, go.mod, and the syntax of scripts
	@$(call silent,$(ls_files) '*.go' | xargs gofmt -l)
	go vet ./...
	go tool staticcheck ./...
	@$(call silent,go fix -diff ./...)
	go mod tidy -diff
	@$(ls_files) '*.sh' .ci/run | while read -r f; do \
		case $$(head -n 1 "$$f") in *bash) bash -n "$$f" ;; *) sh -n "$$f" ;; esac || exit 1; \
	done

.PHONY: vuln
vuln: ## look for known vulnerabilities that our code reaches
	@scripts/vuln.sh

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME
	@$(ls_files) '*_test.go' | xargs grep -EoH '^func Fuzz[A-Za-z0-9_]+' | while IFS=: read -r file func; do \
		name=$${func#func }; \
		echo "$$name in $$(dirname "$$file")"; \
		go test -run='^$$' -fuzz="^$$name\$$" -fuzztime=$(FUZZTIME) "./$$(dirname "$$file")" </dev/null || exit 1; \
	done

.PHONY: bench
bench: ## run the benchmarks
	go test -run='^$$' -bench=. -benchmem ./...

.PHONY: curves
curves: ## measure how the CPU of routers grows with sockets, groups, events and routers
	@scripts/curves.sh

.PHONY: deps
deps: ## install what the tests need besides Go
	@scripts/deps.sh

.PHONY: clean
clean: ## remove what was built; data, the store of run, stays
	rm -rf bin test/e2e/clients/node_modules test/browser/node_modules test/browser/artifacts sdk/js/node_modules
	find . -name node_modules -prune -o \( -name '*.test' -o -name '*.prof' -o -name '*.out' \) -type f -exec rm {} +
