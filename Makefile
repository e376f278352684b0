# Everything goes into .venv in this folder; `make clean` takes it away again. GNU make 3.81 is enough.

VENV := .venv
PY := $(VENV)/bin/python
# Stamps: what training needs is installed; every extra and what tests and checks need, too.
RUNS := $(VENV)/.runs
TOOLS := $(VENV)/.tools

PYTHON ?=
CANDIDATES := python3.11 python3.12 python3.13 python3
SUPPORTED := (3, 11) <= sys.version_info[:2] < (3, 14)

# Extra arguments: make train ARGS="trainer.devices=2", make test ARGS="-k wer"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install train test test-slow bench gpu gpu-wheels docs check format constraints clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

install: $(TOOLS)  ## make .venv and install the project with its tools (PYTHON=... picks the interpreter)

train: $(RUNS)  ## train the quickstart experiment (ARGS="trainer.devices=2 ..." is appended)
	$(PY) train.py experiment=quickstart $(ARGS)

# A file's tests stay in one process: they share what takes long to make. One thread each, and none that spins.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(PY) -m pytest \
    -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: install  ## run the tests, a process for each core (ARGS="-k name ..." is appended)
	$(PYTEST) $(ARGS)

test-slow: install  ## run the tests that `make test` leaves out, which take longer
	$(PYTEST) -m slow $(ARGS)

bench: install  ## print how fast steps, captions and whole runs are beside the tutorial's, and how they scale (an hour on 2 cores)
	$(PY) benchmarks/step.py
	$(PY) benchmarks/captions.py
	$(PY) benchmarks/end_to_end.py
	$(PY) benchmarks/growth.py

# What a machine has that has torch, lightning, transformers and pytest comes from there, the rest from build/gpu-wheels.
GPU_PYTHON := $(if $(wildcard $(TOOLS)),$(PY),python3)
GPU_PACKAGES := annotated-types antlr4-python3-runtime braceexpand datasets dill hydra-core jiwer kornia kornia-rs \
    multiprocess omegaconf rapidfuzz transformers webdataset
PLATFORMS := $(foreach version,2_28 2_27 2_17 2_12 2_5,--platform manylinux_$(version)_x86_64) --platform manylinux2014_x86_64

gpu:  ## prove and measure the project on this machine's GPU, in 8 minutes at most and without a network
	$(GPU_PYTHON) benchmarks/gpu.py $(ARGS)

gpu-wheels: install  ## gather what `make gpu` needs where nothing can be downloaded: CPython 3.12 with torch and lightning
	rm -rf build/gpu-wheels
	$(PY) -m pip wheel -q --no-deps -c constraints.txt -w build/gpu-wheels antlr4-python3-runtime .
	$(PY) -m pip download -q --no-deps -c constraints.txt -d build/gpu-wheels --only-binary=:all: --find-links build/gpu-wheels \
	    --python-version 3.12 --implementation cp $(PLATFORMS) $(GPU_PACKAGES)
	du -sh build/gpu-wheels

docs: install  ## build the documentation into build/docs, with every link checked
	$(VENV)/bin/zensical build --strict --clean

check: install  ## lint, formatting, types and layers, as CI runs them
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

format: install  ## put the code into shape: fix what ruff can, then format
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

# A pin that stands in the file is kept: delete its line first to move it, or all lines but the measured ones.
constraints:  ## resolve constraints.txt again after a change of pyproject.toml (needs uv)
	@command -v uv >/dev/null || { echo "make: uv not found; 'pipx install uv' or 'pip install uv' brings it" >&2; exit 1; }
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	    --constraints constraints.txt --no-header --no-annotate --quiet --output-file constraints.tmp
	{ sed -n '/^#/p' constraints.txt; grep -vE '^(cuda-|nvidia-|triton=)' constraints.tmp; } > constraints.new
	rm constraints.tmp
	mv constraints.new constraints.txt

clean:  ## remove .venv, caches and build leftovers; what runs wrote into outputs/ stays
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .cache .hypothesis .coverage htmlcov
	find . \( -name .git -o -name outputs -o -name multirun \) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# A .venv is kept if its Python is a supported one and every package in it, pip among them, was installed to the end
# (pip writes INSTALLER after all that a package brings); otherwise it is made afresh.
define MAKE_VENV
@$(PY) -c 'import sys, sysconfig; from importlib import metadata; \
    packages = metadata.distributions(path=[sysconfig.get_path("purelib")]); \
    installers = {package.name: package.read_text("INSTALLER") for package in packages}; \
    whole = "pip" in installers and all(installers.values()); \
    sys.exit(not (whole and $(SUPPORTED)))' 2>/dev/null || { \
python=; \
for candidate in $(if $(PYTHON),"$(PYTHON)",$(CANDIDATES)); do \
    if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(not ($(SUPPORTED)))' 2>/dev/null; then \
        python=$$candidate; break; \
    fi; \
done; \
if [ -z "$$python" ]; then \
    echo 'make: no usable Python among: $(or $(PYTHON),$(CANDIDATES)). It takes 3.11 to 3.13 with venv and' \
         'ensurepip (Debian, Ubuntu: install python3-venv); name another with PYTHON=/path/to/python' >&2; \
    exit 1; \
fi; \
echo "$$python -m venv --clear $(VENV)"; \
"$$python" -m venv --clear $(VENV); }
endef

# A stamp comes last, so that an install that fails or is stopped is taken up again the next time.
$(RUNS): pyproject.toml constraints.txt
	$(MAKE_VENV)
	$(PY) -m pip install -c constraints.txt -e .
	@touch $@

$(TOOLS): pyproject.toml constraints.txt
	$(MAKE_VENV)
	$(PY) -m pip install -c constraints.txt -e '.[dev]'
	@touch $(RUNS) $@
