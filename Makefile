# What CI runs and what the README says. `make help` lists it.

export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1	\2/p' $(MAKEFILE_LIST)

demo: ## a day in the life of three hosts, in one process; BROKER=amqp://... plays it over RabbitMQ
	@cargo build -p demo -p hostagent
	@cargo run --quiet -p demo -- $(if $(BROKER),--broker '$(BROKER)')

test: tools lint ## installs what is missing, then lint and every test
	cargo nextest run --workspace --no-fail-fast

lint: tools ## formatting, clippy, licences and sources of dependencies
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny --log-level error check licenses bans sources

tools:
	@scripts/install-test-tools

.PHONY: help demo test lint tools
.DEFAULT_GOAL := help
