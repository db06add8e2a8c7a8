SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
COMMA := ,
# Locks are made with uv (`pip install uv`); everything else needs only what `make setup` installs.
LOCK := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --prerelease if-necessary-or-explicit --custom-compile-command "make lock"

.PHONY: help setup run up secrets manifests audit backup restore-drill system toxiproxy test check format bench bench-edge bench-sockets soak-sockets waf bench-limits bench-latency bench-breaker bench-resilience load soak chaos lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.installed ## make .venv/ with everything that the lock names

.venv/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "Python 3.11 or newer is needed: install it, or say PYTHON=/path/to/python3.11 make $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: setup ## the whole stack on this machine, then a first request through the policies; Ctrl-C ends it
	@$(BIN)/python -m stack

up: setup system ## what docker-compose.yml describes, as processes: three pods, nginx, Redis Cluster, Prometheus
	@$(BIN)/python -m stack.twin

system: ## install the system tools that tests and benches use (Debian, root or sudo)
	@bash .ci/system-tools

test: setup system build/clients/node_modules toxiproxy ## everything: check, then all tests
	@$(MAKE) --no-print-directory check
	@rm -f build/hung-*.txt
	@timeout --kill-after=30 2700 $(BIN)/pytest -q -n 2 --dist worksteal \
		|| { status=$$?; cat build/hung-*.txt 2>/dev/null; exit $$status; }

toxiproxy: setup
	@$(BIN)/python -c 'from chaos.toxics import binary; binary()'

build/clients/node_modules: tests/clients/package-lock.json
	@mkdir -p build/clients && cp tests/clients/package*.json build/clients/
	@cd build/clients && npm ci --silent --no-audit --no-fund
	@touch $@

check: setup ## ruff, mypy --strict, hadolint, compose and YAML checks, policies, the architecture test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema -q --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/yamllint .
	$(BIN)/simplepro-proxy validate config/*.yaml
	$(BIN)/python -m stack.deploy manifests --check
	$(BIN)/simplepro-proxy test config/tests
	$(BIN)/pytest -q tests/test_architecture.py

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build/runtime/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -m venv build/runtime
	@build/runtime/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "$(CURDIR)" > "$$(build/runtime/bin/python -c 'import site; print(site.getsitepackages()[0])')/simplepro.pth"
	@touch $@

bench: setup system build/runtime/.installed ## CPU a request beside nginx, Envoy and others: ONLY=proxy,envoy CONNECTIONS=64,1000 SECONDS=10
	@$(BIN)/python -m tests.bench --only "$(ONLY)" --connections "$(or $(CONNECTIONS),64$(COMMA)1000)" \
		--seconds "$(if $(filter command line,$(origin SECONDS)),$(SECONDS),10)"
	@$(if $(CONNECTIONS)$(ONLY),true,$(MAKE) --no-print-directory bench-sockets)

bench-edge: setup system build/runtime/.installed ## TLS, workers and the cache beside Envoy's and nginx's: ONLY=proxy-cache CONNECTIONS=64 SECONDS=5
	@$(BIN)/python -m tests.bench.edge --only "$(ONLY)" --connections "$(or $(CONNECTIONS),64$(COMMA)1000)" --seconds "$(or $(SECONDS),5)"

bench-posts: setup system build/runtime/.installed ## a JSON POST of 1 KB, validated and inspected, beside Envoy's plain routing: SECONDS=5
	.venv/bin/python -m tests.bench.posts --connections $(or $(CONNECTIONS),64,1000) --seconds $(or $(SECONDS),5)

bench-sockets: setup system build/runtime/.installed ## the same for WebSockets: ONLY=proxy,envoy CONNECTIONS=100,1000 SECONDS=10
	@$(BIN)/python -m tests.bench.sockets --only "$(ONLY)" --connections "$(or $(CONNECTIONS),100$(COMMA)1000)" \
		--seconds "$(if $(filter command line,$(origin SECONDS)),$(SECONDS),10)"

soak-sockets: setup build/runtime/.installed ## SOCKETS=5000 open, a message a second each, for SECONDS=60; and a SIGTERM with 1,000
	@$(BIN)/python -m tests.bench.sockets --drain 1000
	@$(BIN)/python -m tests.bench.sockets --soak "$(or $(SOCKETS),5000)" \
		--seconds "$(if $(filter command line,$(origin SECONDS)),$(SECONDS),60)"

waf: setup ## GoTestWAF's cases by class, place and level; writes docs/security-cases.md
	@$(BIN)/python -m tests.bench.waf

bench-limits: setup ## decisions a second beside limits as it is, and memory a key
	@$(BIN)/python -m tests.bench.limits

bench-latency: setup system ## p99 that limits add at 2,000 requests a second; a greedy client beside others
	@$(BIN)/python -m tests.bench.steady

bench-breaker: setup ## what a call through a closed breaker costs
	@$(BIN)/python -m tests.bench.breaker

bench-resilience: setup ## the same faults behind this proxy and behind Envoy; writes docs/resilience.md
	@$(BIN)/python -m tests.bench.resilience

load: setup ## the real mix through sidecar and SimplePro with k6: RATES=50,100 CONNECTIONS=1000 SECONDS=20 NO_EDGE=1
	@$(BIN)/python -m tests.load --rates "$(or $(RATES),50$(COMMA)100$(COMMA)200$(COMMA)400)" \
		--connections "$(or $(CONNECTIONS),1000)" --seconds "$(if $(filter command line,$(origin SECONDS)),$(SECONDS),20)" $(if $(NO_EDGE),--no-edge)

soak: setup system ## minutes of mixed and broken load; memory must stay flat: MINUTES=10
	@$(BIN)/python -m tests.bench.soak --minutes "$(or $(MINUTES),10)"

chaos: setup system ## every scenario through toxiproxy, about 25 minutes: NAMES="redis-gone links-a-app-*"
	@$(BIN)/python -m chaos run $(NAMES) $(if $(NAMES),,--document)

secrets: setup ## random secrets for compose and for the Kubernetes overlay; those that are there are kept
	@$(BIN)/python -m stack.deploy secrets

manifests: setup ## Kubernetes' copies of the policy and the alerts anew
	@$(BIN)/python -m stack.deploy manifests

audit: setup ## known vulnerabilities, bandit, hadolint, secrets in the tree; STRICT=1 fails where data are missing
	@$(BIN)/python -m stack.audit $(if $(STRICT),--strict)

backup: setup ## the database of MONGODB_URI into BACKUPS=.data/backups, kept 30 days
	@$(BIN)/simplepro-app backup "$(or $(BACKUPS),.data/backups)"

restore-drill: setup ## prove that the newest backup of BACKUPS can be read: restored beside, compared, dropped
	@$(BIN)/simplepro-app restore-drill "$(or $(BACKUPS),.data/backups)"

lock: ## make the lock files anew
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) --group build -o requirements-build.lock
	$(LOCK) pyproject.toml --extra dev --extra otel --extra evaluation --extra bench -o requirements-dev.lock

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
