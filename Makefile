# Two commands do all the set-up: `make demo` and `make test`.
IS_FIT := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c '$(IS_FIT)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: demo test check bench drill clean

demo: .venv/.installed
	$(BIN)/nmt demo

test: check
	$(BIN)/pytest -m "not slow" -n 2 --dist loadgroup --no-loadscope-reorder

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/nmt bench -o work/bench.json

drill: .venv/.installed
	$(BIN)/python tests/chaos/drill.py $(DRILL)

define install
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(IS_FIT)' || \
	  { echo "nmt needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.$(1)'
endef

.venv/.installed: pyproject.toml
	$(call install)
	@touch $@

.venv/.installed-dev: pyproject.toml
	$(call install,[dev])
	@touch .venv/.installed $@

# Not runs, prepared or work: they hold models and corpora.
clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
