# `make help` lists the targets.
SHELL := /usr/bin/env bash
.DEFAULT_GOAL := help
export CGO_CFLAGS ?= -O2 -g -Wno-deprecated-declarations

.PHONY: help setup tools build test unit race e2e lint demo release release-check vuln figures gpu-check fuzz soak-gateways bench clean

help: ## list the targets
	@echo "Targets:"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing (docker, CNI plugins, gcc, what tests need) and start the docker engine
	@scripts/setup

tools: ## build the pinned nomad, consul and nomad-autoscaler into a cache
	@scripts/tools

build: ## build every program into bin/
	@scripts/build >/dev/null

test: setup ## run all tests; installs and starts what is missing first
	@scripts/tools && scripts/test all

unit: ## run the tests that need neither root nor docker
	@scripts/test unit

e2e: setup ## run the end-to-end tests on real nomad, consul and docker
	@scripts/tools && scripts/test e2e

race: ## run the tests of policies and daemons under the race detector
	@scripts/test race

lint: ## gofmt, go vet, staticcheck, and the bounds of revive.toml
	@scripts/lint

demo: ## run the demo until Ctrl-C; ONCE=1 ends by itself, TRACE=file.csv replays a trace
	@scripts/setup demo && scripts/tools && scripts/demo $(if $(ONCE),-once) $(if $(TRACE),-trace='$(TRACE)') $(if $(LENGTH),-length='$(LENGTH)')

release: ## write archives, packages, their SBOM and checksums into dist/; KEY=id signs them
	@scripts/release $(if $(KEY),-key '$(KEY)') dist

release-check: ## build the release in two folders and compare; install it in a Debian chroot; needs root
	@scripts/release-check

vuln: ## look for known vulnerabilities, where the Go project's database can be reached
	@scripts/vuln

figures: ## measure lengths, complexity and comments, beside how they were; REV=... compares with others
	@scripts/figures $(REV)

gpu-check: ## check a real NVIDIA GPU: fingerprint, MPS daemon, granted against seen
	@scripts/gpu-check

fuzz: ## fuzz every parser for TIME=1m each; IN=./gateway/wire takes the parsers of one package
	@scripts/fuzz '$(or $(TIME),1m)' '$(or $(IN),.)'

soak-gateways: ## lose gateways, networks and Consul ROUNDS times (10) under load; needs root
	@scripts/tools && ALIQUOT_ROUNDS=$(or $(ROUNDS),10) go test -count=1 -v -timeout 3h ./e2e/gateways

bench: ## run every benchmark of bench/; bench-NAME runs one
	@for dir in bench/*/; do $(MAKE) --no-print-directory bench-$$(basename $$dir) || exit 1; done

bench-llama: ## what is learned of llama.cpp on the CPU, beside what is measured; needs node and downloads
	@cd bench/llm/llama && npm install --no-save --omit=optional --ignore-scripts --no-audit --no-fund
	@go run ./bench/llm -llama bench/llm/llama

bench-%:
	@go run ./bench/$*

clean: ## remove bin/
	@rm -rf bin
