# `make test` needs Rust, Python 3.11 with venv, Node 20 with npm, and a package registry for each. What else it needs is
# installed by apt where we may do that.

TARGET := $(or $(CARGO_TARGET_DIR),target)
BINARY := $(or $(REJOINDER_BIN),$(TARGET)/release/rejoinder)
CLIENTS := tests/clients
VENV_STAMP := .venv/.installed
NODE_STAMP := $(CLIENTS)/node_modules/.installed
AGENTS := $(CLIENTS)/coding_agents
AGENTS_STAMP := $(AGENTS)/node_modules/.installed

# Modules of tests/integration that start no other program: each takes seconds.
QUICK := checker history imports limits native prefix request sizes tools

.PHONY: build quick lint unit documents sbom book bench faults soak clients test test-agents packages check-packages demo venv node programs clean
.DEFAULT_GOAL := build

build: ## the proxy itself: target/release/rejoinder
	cargo build --release --locked

lint:
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

quick: lint ## format, clippy, core and unit tests: no network, no other program, under a minute after a build
	cargo test --locked --quiet --workspace --lib
	cargo test --locked --quiet --test integration -- $(addsuffix ::,$(QUICK))
	scripts/check-docs

unit:
	scripts/tests rust

documents: book ## what README, ARCHITECTURE, the Dockerfile and deploy/ say is so
	scripts/check-docs
	scripts/check-dockerfile
	scripts/check-deploy

sbom: ## target/sbom/rejoinder.cdx.json: the crates in the binary, their versions and licences
	scripts/sbom

book: venv ## target/book, from docs/; `make clients` runs the commands in it
	scripts/book

# The real clients, and a real llama.cpp server, against the release binary.
clients: build venv node
	cd $(CLIENTS) && REJOINDER_BIN='$(abspath $(BINARY))' '$(CURDIR)/.venv/bin/python' -m pytest -n 2 --dist loadgroup --junitxml '$(CURDIR)/target/tests/clients.xml' $(PYTEST_ARGS)

test: programs ## all of it; the last line counts what was not run, and says why
	@rm -rf target/tests
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory unit
	$(MAKE) --no-print-directory documents
	$(MAKE) --no-print-directory clients
	@scripts/tests report

# Further coding agents, which are large: 700 MB and several minutes. Linux on x86-64 alone.
test-agents: build venv $(AGENTS_STAMP) ## pi, opencode and Copilot CLI against the release binary; prints a table of what they did
	cd $(CLIENTS) && REJOINDER_BIN='$(abspath $(BINARY))' '$(CURDIR)/.venv/bin/python' -m pytest coding_agents $(PYTEST_ARGS)

bench: build ## the pure core, by criterion; then the proxy beside nginx (QUICK=1, ROUNDS=n, ONLY=S1,S5, SOAK=600, HOSTILE=60)
	$(if $(SOAK)$(HOSTILE),,cargo bench --locked --bench core)
	REJOINDER_BIN='$(abspath $(BINARY))' cargo bench --locked --bench e2e

faults: ## each phase of a request with each fault, as docs/faults.md has it: prints what each came to (FAULT='huge line' for one)
	cargo test --locked --test integration faults:: -- --nocapture

soak: build venv node ## half an hour of mixed clients while all around the proxy fails; prints a table (SOAK_MINUTES=3, SOAK_SEED=n)
	cd $(CLIENTS) && REJOINDER_BIN='$(abspath $(BINARY))' '$(CURDIR)/.venv/bin/python' soak.py

packages: ## what a release consists of, into target/packages: static binaries, wheels, npm packages, .debs, images
	scripts/package

check-packages: ## install each of them as a user would, and have it serve a request
	scripts/check-packages

demo: ## llama.cpp and a small model behind the proxy, until Ctrl-C
	@scripts/demo

venv: $(VENV_STAMP)

$(VENV_STAMP): $(CLIENTS)/requirements.txt
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

node: $(NODE_STAMP)

# Without npm the tests that need it are skipped, and say so.
$(NODE_STAMP): $(CLIENTS)/package.json $(CLIENTS)/package-lock.json $(CLIENTS)/.npmrc
	@if command -v npm >/dev/null; then cd $(CLIENTS) && npm ci --no-progress && touch node_modules/.installed; \
	else echo "SKIP: no npm here, so the tests with Codex, Droid and openai-node are skipped"; fi

$(AGENTS_STAMP): $(AGENTS)/package.json $(AGENTS)/package-lock.json $(AGENTS)/.npmrc
	@if command -v npm >/dev/null; then cd $(AGENTS) && npm ci --no-progress && touch node_modules/.installed; \
	else echo "SKIP: no npm here, so no coding agent can be had"; fi

# What single tests need beside that: the shared store, the counts of instructions, a search that Droid runs, a browser, what
# stands in front of replicas.
# Without one of them its tests are skipped.
programs:
	@missing=$$(for program in redis-server valgrind rg=ripgrep chromium nginx=nginx-light; do \
		command -v "$${program%=*}" >/dev/null || echo "$${program#*=}"; done | xargs); \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; then :; \
	else echo "SKIP: the tests that need these are skipped: $$missing (apt-get install $$missing)"; fi

clean:
	cargo clean
	rm -rf .venv .cache $(CLIENTS)/node_modules $(AGENTS)/node_modules $(CLIENTS)/.pytest_cache
	find $(CLIENTS) -name __pycache__ -prune -exec rm -rf {} +
