# vc-runtime: `make help` lists the targets.
#
#   VERSION  version of the programs           REFRESH=1  newer Debian packages
#   PREFIX   where install puts things         DESTDIR    put in front of PREFIX
#   GUEST_IMAGE  the guest image that install, integration and bench take (build/guest)

PREFIX  ?= /usr/local
DESTDIR ?=
VERSION ?= $(or $(patsubst v%,%,$(shell git describe --tags --match 'v*' 2>/dev/null)),0.0.0-dev)
COMMIT  ?= $(shell git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null)

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# What the programs are made of; tests are not.
SOURCES := go.mod go.sum $(shell find agent cmd hypervisor image state virtcontainers -name '*.go' ! -name '*_test.go' 2>/dev/null)
AGENT   := build/vc-agent
GUEST   := build/guest/manifest.json
GUEST_IMAGE ?= build/guest

# Packages whose tests boot virtual machines, and all others.
VM_TESTS   := ./tests/... ./agent/vmtest/...
UNIT_TESTS  = $(shell $(GO) list ./... | grep -vE '/(tests|agent/vmtest)(/|$$)')

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: e2e-crio all build agent guest guest-kernel debian deps unit fault mutate integration test-streams test-vsock test-systemd test-power test check compare conformance fuzz demo bench install clean distclean help FORCE

all: build guest ## the runtime and the guest image

build: bin/vc-runtime ## the runtime: bin/vc-runtime

agent: $(AGENT) ## the agent, PID 1 of the guest: build/vc-agent

guest: $(GUEST) ## the guest image: build/guest (REFRESH=1: with newer Debian packages)

deps: ## install what Debian 12 lacks to build, run and test (needs root)
	hack/deps build run test

# Without the manual pages that the command line's library could make, and the parser of Markdown behind them, whose tables each command would build first.
bin/vc-runtime: $(SOURCES) build/version
	CGO_ENABLED=0 $(GO) build -tags urfave_cli_no_docs -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION) -X main.commit=$(COMMIT)' -o $@ ./cmd/vc-runtime

# No build id and no commit: the same sources give the same guest image.
$(AGENT): $(SOURCES) build/version
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -buildmode=exe \
		-ldflags '-s -w -buildid= -X main.version=$(VERSION)' -o $@ ./cmd/vc-agent

$(GUEST): $(AGENT) $(if $(REFRESH),FORCE)
	$(GO) run ./agent/guestimage/mkguest -agent $(AGENT) -agent-version '$(VERSION)' \
		-cache build/cache -out build/guest $(if $(REFRESH),-refresh)

# Not made by anything else: it compiles a kernel, once for each version and configuration.
guest-kernel: $(AGENT) ## a guest image with a trimmed kernel, built from Debian's source: build/guest-trimmed (minutes; needs `hack/deps kernel`)
	nice $(GO) run ./agent/guestimage/mkguest -agent $(AGENT) -agent-version '$(VERSION)' \
		-kernel-config agent/guestimage/kernel.config -kernel-patch agent/guestimage/kernel.patch -cache build/cache -out build/guest-trimmed $(if $(REFRESH),-refresh)

# Changes only when the version does.
build/version: FORCE
	@mkdir -p $(@D)
	@echo '$(VERSION) $(COMMIT)' | cmp -s - $@ || echo '$(VERSION) $(COMMIT)' >$@

# A whole distribution as a rootfs, for the tests.
debian: build/debian/usr/bin/python3 ## a Debian tree for the tests: build/debian (needs root and `make deps`)

build/debian/usr/bin/python3:
	rm -rf --one-file-system build/debian build/debian.tmp
	debootstrap --variant=minbase --include=python3 bookworm build/debian.tmp >build/debootstrap.log || { tail build/debootstrap.log; exit 1; }
	mv build/debian.tmp build/debian

unit: ## unit tests, with the race detector; no root, no virtual machine
	$(GO) test -race $(UNIT_TESTS)

fault: build guest ## every failpoint with every fault, and 500 lives with something killed in each: an hour or more (needs root and `make deps`)
	$(GO) test ./state/failpoint -tags failpoints
	VC_FAULTS=all VC_SOAK=$(or $(VC_SOAK),500) $(GO) test -count=1 -v -timeout 3h ./tests/fault
	VC_SPARES=all $(GO) test -count=1 -v -timeout 30m -run 'TestSpare|TestCutOff' ./tests/integration

mutate: build guest ## each protection taken out in turn: a named test must fail (needs root and `make deps`)
	$(GO) run ./hack/mutate $(if $(RUN),-run '$(RUN)')

integration: build guest debian ## tests with virtual machines (needs root and `make deps`)
	VC_TEST_GUEST=$(abspath $(GUEST_IMAGE)) VC_GUEST_DIR=$(abspath $(GUEST_IMAGE)) $(GO) test -count=1 -p 1 -timeout 60m $(VM_TESTS)

test-streams: build guest ## 10 MB each way 1,000 times, 1,000 last words, 200 execs at once in a created and in a running container: an hour or so (needs root and `make deps`)
	VC_STREAMS=1000 VC_TAILS=1000 VC_EXECS=400 $(GO) test -count=1 -v -timeout 6h -run '^(TestBulk|TestContainerStreams|TestNoLostTail|TestManyExecs)$$' ./tests/integration

test-vsock: build guest ## tests with vsock, in an emulated host of their own: many minutes (needs root and `make deps`)
	VC_TEST_VSOCK=$(or $(VC_TEST_VSOCK),.) CGO_ENABLED=0 $(GO) test -count=1 -v -timeout 200m -run '^TestVsock$$' ./tests/vsock

test-systemd: build guest ## the host's cgroups on machines of systemd's: v1, v2 and both (needs `make deps`)
	VC_SYSTEMD=all $(GO) test -count=1 -v -timeout 60m ./tests/systemd

test-power: build guest ## the image store after a loss of power, at every step and after every write of a machine: minutes (needs root and `make deps`)
	VC_IMAGES_ALL=1 $(GO) test -count=1 -v -timeout 60m -run 'Power|Prefix' ./tests/images

test: ## everything: deps, build, check, unit and integration tests
	$(MAKE) deps
	$(MAKE) build guest debian
	$(MAKE) check
	$(MAKE) unit
	$(MAKE) integration

check: $(AGENT) ## format, vet, staticcheck, import directions, a static agent
	@unformatted=$$(gofmt -l .); \
		[ -z "$$unformatted" ] || { echo "gofmt these:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags failpoints ./state/failpoint ./virtcontainers/... ./cmd/...
	$(GO) run $(STATICCHECK) ./...
	$(GO) test -count=1 ./hack/imports
	$(GO) run ./agent/guestimage/mkguest -check-static -agent $(AGENT)

compare: build guest ## every bundle of the comparison with runc (needs root and `make deps`)
	VC_COMPARE=all $(GO) test -count=1 -timeout 60m ./tests/compare

conformance: build guest ## OCI's validation programs, with runc and vc-runtime (needs root and `make deps`)
	hack/conformance build/conformance
	VC_CONFORMANCE=$(CURDIR)/build/conformance VC_CONFORMANCE_WRITE=1 $(GO) test -count=1 -timeout 120m -v ./tests/conformance

fuzz: ## every fuzzer, for FUZZTIME each (10s)
	FUZZTIME=$(or $(FUZZTIME),10s) hack/fuzz $(FUZZ)

e2e-crio: build guest ## CRI-O's way to stop a container, 500 times (needs root and `make deps`)
	VC_CRIO_CYCLES=500 $(GO) test -count=1 -timeout 120m -run TestStop ./tests/crio

demo: ## the life of one container, with times (needs root)
	hack/deps build run
	$(MAKE) build guest
	hack/demo

bench: ## the tables of docs/benchmarks.md and the plots, beside runc, crun, runsc and others: some 50 minutes (needs root)
	hack/deps build run test bench
	$(MAKE) build guest debian
	GUEST_IMAGE=$(abspath $(GUEST_IMAGE)) hack/bench-all

install: build guest ## into $(DESTDIR)$(PREFIX): bin and lib/vc-runtime/guest
	install -D -m 0755 bin/vc-runtime $(DESTDIR)$(PREFIX)/bin/vc-runtime
	install -d -m 0755 $(DESTDIR)$(PREFIX)/lib/vc-runtime/guest
	install -m 0644 $(GUEST_IMAGE)/vmlinux $(GUEST_IMAGE)/initrd $(GUEST_IMAGE)/manifest.json \
		$(DESTDIR)$(PREFIX)/lib/vc-runtime/guest

clean: ## remove what was built, but not what was fetched
	rm -rf bin build/guest build/guest-trimmed build/vc-agent build/version

distclean: clean ## remove that too
	rm -rf build

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 13
