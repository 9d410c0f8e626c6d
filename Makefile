# make test and make demo work in a fresh clone: each first creates .venv and builds the package in it.
PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
# -qq: errors only
PIP := $(BIN)/python -m pip install -qq -c constraints.txt
# ninja and ruff of the environment come before those of the machine
export PATH := $(BIN):$(PATH)
# Where there is a compiler, a broken extension must fail the tests and not fall back to the reference.
CXX_FOUND := $(shell command -v $(firstword $(CXX)) 2>/dev/null)
TEST_ENV := $(if $(CXX_FOUND),FAIL_WITHOUT_EXT=1)

.PHONY: test demo lint bench bench-models clean

test: lint
	$(TEST_ENV) $(BIN)/python -m pytest -q
	USSFAST_IMPL=reference $(BIN)/python -m pytest -q tests/ops/test_contract.py -k "not triton"
	$(TEST_ENV) USSFAST_FORCE_ISA=generic $(BIN)/python -m pytest -q tests/ops/test_contract.py -k dispatched

demo: $(STAMP)
	$(BIN)/python -m ussfast demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m pytest -q bench/ops

# Whole models take many minutes. torch.compile too: make bench-models MARK="slow or not slow"
bench-models: $(STAMP)
	mkdir -p bench/results
	$(BIN)/python -m pytest -q bench/models $(if $(MARK),-m "$(MARK)") --benchmark-json=bench/results/models.json
	$(BIN)/python bench/report.py bench/results/models.json --out bench/results

$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard csrc/*/* csrc/*/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 numpy "setuptools>=77.0.3" wheel ninja
	$(PIP) --no-build-isolation -e ".[test]"
	$(BIN)/python -c "from ussfast._ext import kernels; print(*kernels(), sep='\n')"
	touch $@

clean:
	rm -rf build dist *.egg-info ussfast/_C*.so ussfast/_build_info.json $(STAMP)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
