# Two commands do everything: `make demo` and `make test`. Both begin with `make setup`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps
NATIVE_BUILD := build/native

.PHONY: setup native demo test lint format bench clean
.DEFAULT_GOAL := test

setup: native

$(STAMPS)/venv: pyproject.toml constraints.txt tools/check_machine.sh
	@tools/check_machine.sh $(PYTHON)
	@mkdir -p $(STAMPS)
	@test -x $(BIN)/python || { echo "penstock: making $(VENV), for everything that follows: nothing is installed beside it" >&2; $(PYTHON) -m venv $(VENV); }
	@tools/pip_install.sh $(BIN)/python "installing what builds it, once" -r tools/build_requirements.txt
	@touch $@

# Compiles what changed and (re)installs the package in editable form. flock: two makes may run at once.
native: $(STAMPS)/venv
	@flock $(STAMPS)/lock tools/build_native.sh $(BIN)/python $(STAMPS)/native

demo: setup
	@mkdir -p demo-out
	@$(BIN)/penstock demo --store-in demo-out --json demo-out/demo.json --plot demo-out/demo.png --record-keys demo-out/keys

test: setup
	@cd tests && ../$(BIN)/python -m pytest .

BENCHMARKS := actors channels copy gateway l1 node pd peers ranks routing simulate stores

# One at a time: each takes the machine for itself. Numbers as JSON in build/bench/.
bench: setup
	@mkdir -p build/bench
	@cd tests/bench && for one in $(BENCHMARKS); do ../../$(BIN)/python $$one.py --json ../../build/bench/$$one.json || exit 1; done

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.hpp' 'tests/csrc/*')
	@tools/typecheck_tree.sh $(BIN)/python build/typecheck
	MYPYPATH=build/typecheck $(BIN)/mypy -p penstock

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.cpp' 'csrc/*.hpp' 'tests/csrc/*')

clean:
	rm -rf build $(VENV)
