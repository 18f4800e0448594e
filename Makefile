# What CI runs and what the README says. `make help` lists it.

export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin

# Tests that could not be run here write their reasons here.
SKIPS := $(CURDIR)/target/skips
# What the sweeps count.
COUNTS := $(CURDIR)/target/sweep-counts

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1	\2/p' $(MAKEFILE_LIST)

demo: ## a day in the life of three hosts, in one process; BROKER=amqp://... plays it over RabbitMQ, KEEP=1 stays up
	@cargo build -p demo -p hostagent $(if $(KEEP),$(patsubst crates/%,-p %,$(wildcard crates/bbctl)))
	@cargo run --quiet -p demo -- $(if $(BROKER),--broker '$(BROKER)') $(if $(KEEP),--keep)

test: tools lint ## installs what is missing, then lint and every test
	@rm -f $(SKIPS)
	BACKBONE_SKIPS=$(SKIPS) cargo nextest run --workspace --no-fail-fast
	@if [ -s $(SKIPS) ]; then sort -u $(SKIPS); echo "$$(sort -u $(SKIPS) | wc -l) skipped, each with its reason"; \
	else echo "0 skipped"; fi

e2e: tools ## whole hosts: machines with a systemd of their own, the agent as a package, RabbitMQ outside; needs root
	@rm -f $(SKIPS)
	BACKBONE_SKIPS=$(SKIPS) cargo nextest run --workspace -E 'package(e2e)' --test-threads 3 --no-fail-fast --final-status-level pass
	@if [ -s $(SKIPS) ]; then sort -u $(SKIPS); echo "$$(sort -u $(SKIPS) | wc -l) skipped, each with its reason"; \
	else echo "0 skipped"; fi

test-long: tools ## the sweeps in full: a fault at every system call of the agent and its package managers, 50 kills of masters and of brokers
	@rm -f $(COUNTS)
	SWEEP=all SWEEP_COUNTS=$(COUNTS) RUST_BACKTRACE=0 cargo nextest run --profile long -p hostagent --test it \
		--no-fail-fast --success-output final --no-tests fail sweep:: ; ended=$$?; \
	awk '{ hit[$$1] += $$2; missed[$$1] += $$3; wrong[$$1] += $$4; if ($$5 > slowest[$$1]) slowest[$$1] = $$5 } \
		END { for (fault in hit) printf "%s: %d points hit, %d not reached, %d wrong, slowest recovery %.1f s\n", \
		fault, hit[fault], missed[fault], wrong[fault], slowest[fault] }' $(COUNTS); \
	SWEEP=all RUST_BACKTRACE=0 cargo nextest run --profile long -p bbmaster --test it \
		--no-fail-fast --success-output final --no-tests fail kills:: && exit $$ended

bench: ## agent and master compared with limits and peers, in release builds; ONLY='ping ingest' runs some, ONLY=--list names them
	@scripts/install-test-tools bench
	@# The agent by a cargo call of its own, as in scripts/build-packages: built together with the others, it would get
	@# the features that only they ask for.
	@cargo build --release -p bbmaster -p bench
	@if musl=$$(scripts/musl-target); then \
		cargo build --release -p hostagent --target $$musl && \
		target/release/bench --static-agent target/$$musl/release/hostagent $(ONLY); \
	else \
		cargo build --release -p hostagent && target/release/bench $(ONLY); \
	fi

package: ## .deb and .rpm of hostagent, bbmaster and bbctl, in release builds, into target/packages
	@scripts/install-test-tools package
	@scripts/build-packages

fuzz: ## libFuzzer on every parser of what comes from outside, FUZZ_SECONDS (600) each; ends by itself
	scripts/fuzz

lint: tools ## formatting, clippy, licences and sources of dependencies
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny --log-level error check licenses bans sources

tools:
	@scripts/install-test-tools

.PHONY: help demo test e2e test-long bench package fuzz lint tools
.DEFAULT_GOAL := help
