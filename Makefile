# Each target works first, in any order, twice, and from a clean clone; all share .venv.
#
#   make env    .venv with the pinned dependencies and the command hypermosaic
#   make demo   a 4096 x 4096 picture, and the path of the page that shows it
#   make test   the test suite
#   make lint   ruff and mypy
#   make faults kills, damage and refusals through the command line, a row each; minutes
#   make soak   tests that take long

PYTHON := $(shell for name in python3.11 python3.12 python3.13 python3; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)
STAMP := .venv/.installed
PIP := .venv/bin/python -m pip --disable-pip-version-check

.PHONY: env demo test lint faults soak clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it, with its venv module" >&2; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt setuptools
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[test]'
	@touch $(STAMP)

DEMO := .venv/bin/hypermosaic generate archipelago --size 4096x4096 --out out/demo --resume

demo: $(STAMP)
	@$(DEMO) || { test $$? = 2 && echo "out/demo is of another version; it is drawn anew" && rm -r out/demo && $(DEMO); }

test: $(STAMP)
	.venv/bin/python -m pytest -q -rs --durations=10 -n 3 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

faults: $(STAMP)
	.venv/bin/python tests/faults.py

soak: $(STAMP)
	.venv/bin/python -m pytest -q -rs -m soak

clean:
	rm -rf .venv build *.egg-info
