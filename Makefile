# `make` shows what there is. Every target builds the environment first if it has to; nothing else needs installing.
.DEFAULT_GOAL := help
.PHONY: help up doctor env models hearing-models test test-all images-test live-test clients-test hear hostile soak soak-volunteers power-cuts check fix bench compare docs locks changelog clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MEMBERS := $(patsubst %/pyproject.toml,%,$(wildcard libs/*/pyproject.toml services/*/pyproject.toml) cli/pyproject.toml)
# These tiers start no set of processes, so several of their tests may run at once.
SIDE_BY_SIDE := unit or contract or backend or deploy
# These start sets of processes that mostly wait; several files at a time share the processors well. What drives them
# needs no debug mode of its event loop, which would take a third of its time.
PROCESSES := (integration or e2e) and not (live or clients)
DRIVING := -o asyncio_debug=false
ARGS ?=
PYTEST := $(BIN)/python -m pytest -q
# ARGS may leave a run without a test.
NONE_LEFT := [ $$? = 5 ] && [ -n "$(ARGS)" ]
# What fails beside others is run once more alone: a machine that is slow for a while outlasts the most patient bounds.
# Both runs are printed, and what fails twice fails.
twice = $(PYTEST) $(1) $(ARGS) || { rc=$$?; [ $$rc = 5 ] && [ -n "$(ARGS)" ]; } || { [ $$rc = 1 ] && \
	echo "== what failed, once more and alone" && $(PYTEST) --last-failed --last-failed-no-failures none $(1) -n 0 $(ARGS); }

help:
	@awk 'BEGIN { FS = ":.*## " } \
		/^## / { printf "\n%s\n", substr($$0, 4) } \
		/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo

## Use it
up: $(READY) ## start everything on this machine; Ctrl-C stops it
	@$(BIN)/callboard up

doctor: $(READY) ## check one by one whether `up` can work here
	@$(BIN)/callboard doctor

models: $(READY) ## fetch the model files that `up` uses
	@$(BIN)/callboard models fetch

## Work on it
env: $(READY) ## build the environment in .venv

test: models ## the fast tiers: unit, contract, backend, deploy, integration
	$(PYTEST) -n auto --maxprocesses 4 -m "($(SIDE_BY_SIDE)) and not slow" $(ARGS) || { $(NONE_LEFT); }
	$(PYTEST) -n 3 --dist loadfile -m "integration and not slow" $(ARGS) || { $(NONE_LEFT); }

hearing-models: $(READY)
	@$(BIN)/python -m tests.hearing.models || echo "the recogniser's models are not to be had here; its tests skip"

test-all: models hearing-models ## every tier, with real models, processes and faults
	$(call twice,-n auto --maxprocesses 4 -m "$(SIDE_BY_SIDE)")
	$(call twice,-n 6 --dist loadfile $(DRIVING) -m "$(PROCESSES)")
	$(PYTEST) $(DRIVING) -m "not ($(SIDE_BY_SIDE) or integration or e2e or images or benchmark)" $(ARGS) || { $(NONE_LEFT); }

images-test: models ## build every image and run a Callboard out of them (needs root, buildah, runc, debootstrap)
	$(PYTEST) -m images $(ARGS)

live-test: models ## watch a Callboard with a real Prometheus: alerts of real kills, data on every panel
	$(PYTEST) -n 2 --dist loadfile -m live $(ARGS)

clients-test: $(READY) build/clients-env/.ready build/clients-node/.ready ## ask as LangChain, Instructor, pydantic-ai and npm's clients do
	$(PYTEST) -m clients $(ARGS)

hear: models hearing-models ## hear 300 spoken sentences back, and print the word error of each kind
	$(BIN)/python -m tests.hearing $(ARGS)

hostile: models hearing-models ## attack real engines for two minutes, or for CALLBOARD_HOSTILE_S
	$(PYTEST) -m hostile $(ARGS)

soak: models hearing-models ## the same for an hour, and twenty visitors who speak for half an hour
	CALLBOARD_HOSTILE_S=$${CALLBOARD_HOSTILE_S:-3600} CALLBOARD_VISITORS_S=$${CALLBOARD_VISITORS_S:-1800} \
		$(PYTEST) -m hostile $(ARGS)

soak-volunteers: $(READY) ## 200 volunteers of all manners and 2,000 requests, while processes are killed; six minutes
	$(BIN)/python -m tests.volunteer_soak $(ARGS)

power-cuts: $(READY) ## cut the power of a running set 40 times, or CALLBOARD_POWER_ROUNDS times
	CALLBOARD_POWER_ROUNDS=$${CALLBOARD_POWER_ROUNDS:-40} $(BIN)/python -m pytest -s tests/e2e/test_power_cut.py $(ARGS)

check: $(READY) ## format, lint, types, imports and dependencies; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-logo
	$(foreach member,$(MEMBERS),$(BIN)/deptry --config $(member)/pyproject.toml $(member)/src &&) true

fix: $(READY) ## put format and simple lint findings right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: models ## measure, and print the table of docs/benchmarks.md
	$(BIN)/python -m tests.benchmarks $(ARGS)

compare: models ## measure beside other gateways and speech servers, which it installs into build/compared
	scripts/compared build/compared
	$(BIN)/python -m tests.benchmarks compare --update $(ARGS)

docs: $(READY) build/docs-env/.ready ## generate the reference pages and build the site into build/site
	$(BIN)/python docs/generate.py
	$(BIN)/python -m deploy.observability.build
	NO_MKDOCS_2_WARNING=1 build/docs-env/bin/mkdocs build --quiet --strict --site-dir build/site

## Release it
locks: $(READY) ## resolve all dependencies anew and write locks/ (ARGS=--upgrade for newer versions)
	scripts/locks $(ARGS)

changelog: $(READY) ## show what the fragments in changelog/ would become
	$(BIN)/towncrier build --draft

clean: ## remove the environment and everything built
	rm -rf $(VENV) build var .pytest_cache .ruff_cache .hypothesis

$(READY): locks/dev.txt scripts/environment $(addsuffix /pyproject.toml,$(MEMBERS))
	@scripts/environment $(VENV)
	@touch $@

build/docs-env/.ready: locks/docs.txt scripts/environment
	@scripts/environment build/docs-env locks/docs.txt
	@touch $@

build/clients-env/.ready: tests/clients/python/requirements.txt scripts/environment
	@scripts/environment build/clients-env $<
	@touch $@

build/clients-node/.ready: $(wildcard tests/clients/javascript/package*.json)
	@mkdir -p $(@D) && cp $^ $(@D)
	@npm --prefix $(@D) ci --no-audit --no-fund --loglevel error || echo "npm's packages are not to be had here; their tests skip"
	@touch $@
