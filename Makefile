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
# The sets below the best that this CPU has; the best is what all other tests run on.
cpu_has = $(shell grep -qw $(1) /proc/cpuinfo 2>/dev/null && echo $(2))
OTHER_ISAS := $(if $(CXX_FOUND),generic $(call cpu_has,avx512f,avx2) $(call cpu_has,avx512_vnni,avx512))
KERNEL_TESTS := tests/ops/test_contract.py tests/ops/test_locoformer.py tests/ops/test_bands.py tests/ops/test_conv_ffn.py \
  tests/ops/test_gated_recurrence.py tests/ops/test_band_attention.py tests/ops/test_band_masks.py \
  tests/ops/test_band_tokens.py tests/ops/test_frozen_ffn.py \
  tests/models/test_causal_native.py tests/ops/test_bounds.py

# Files of tests run beside each other, each on one thread; each takes about a gigabyte.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$((n < 4 ? n : 4)))

.PHONY: test demo lint bench bench-models bench-streaming docs embed first-screen web web-ort fuzz asan gpu-build gpu-test gpu-bench gpu-lease gpu-lease-pack clean

# Behind the whole suite: the ops without kernels and with those of lesser sets. Their gradients are checked in float64, which
# is the reference's everywhere: the suite has done that.
test: lint
	$(TEST_ENV) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --junitxml=build/tests.xml
	$(BIN)/python -m ussfast.ops.aot --arch 80,90,100 --check
	USSFAST_IMPL=reference $(BIN)/python -m pytest -q tests/ops/test_contract.py -k "not gradient and not triton"
	for isa in $(OTHER_ISAS); do echo "== $$isa" && \
	  $(TEST_ENV) USSFAST_FORCE_ISA=$$isa $(BIN)/python -m pytest -q $(KERNEL_TESTS) -k "not gradient and not triton" || exit 1; \
	done

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

# Live streams on one thread; an hour of audio takes some ten minutes more: make bench-streaming HOUR=1
bench-streaming: $(STAMP)
	mkdir -p bench/results
	BENCH_THREADS=1 $(BIN)/python -m pytest -q bench/streaming --benchmark-json=bench/results/streaming.json
	$(if $(HOUR),$(BIN)/python bench/stream_hour.py -o bench/results/stream-hour.json)

# The documentation as a site in build/site, which opens from disk, too; fails where a link leads nowhere.
docs: $(STAMP)
	$(BIN)/python scripts/performance.py --check
	$(BIN)/python scripts/diagrams.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python scripts/site/check.py build/site

# A trained model that is better becomes the embedded default: make embed MODEL=DIR DATA=manifest.json, or OLD= and NEW=,
# evaluation.json of the present default and of MODEL. With DETECTOR=1 it becomes the embedded detector.
embed: $(STAMP)
	$(BIN)/python scripts/embed.py $(MODEL) $(if $(DATA),--data $(DATA)) $(if $(OLD),--old $(OLD)) $(if $(NEW),--new $(NEW)) \
	  $(if $(DETECTOR),--detector) $(if $(LABELS),--labels $(LABELS))

# The picture and the table of README's first screen; after another model became the default, bench/peers/compare.py
# --update comes first.
first-screen: $(STAMP)
	$(BIN)/python scripts/first_screen.py

# The page that separates in the browser: its model (MODEL=default) and onnxruntime-web, of npm. docs/browser.md
WEB := export/web
web: $(STAMP) web-ort
	$(BIN)/python -m ussfast.export $(or $(MODEL),default) --onnx --mode step --overwrite -o $(WEB)/model
	@echo "ready: python -m http.server -d $(WEB), then http://localhost:8000"

web-ort:
	sh $(WEB)/get_ort.sh $(WEB)/ort

# Random inputs for everything that takes any: make fuzz MINUTES=10, or INPUTS=10000 of each target. docs/security.md
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m fuzz $(if $(MINUTES),--minutes $(MINUTES)) $(if $(INPUTS),--inputs $(INPUTS)) $(if $(SEED),--seed $(SEED))

# The C++ kernels under AddressSanitizer and UBSan: their tests, streams, and INPUTS random inputs of each target that runs
# them. The package is a copy in build/asan, so that the one in use stays as it is.
ASAN := build/asan
ASAN_RUN = LD_PRELOAD="$(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libstdc++.so.6)" \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 FAIL_WITHOUT_EXT=1 \
  OMP_NUM_THREADS=2 PYTHONSAFEPATH=1 PYTHONPATH=$(abspath $(ASAN)/lib):$(CURDIR)
asan: $(STAMP)
	USSFAST_SANITIZE=1 USSFAST_BUILD=cpu $(BIN)/python setup.py -q build --build-temp $(ASAN)/tmp --build-lib $(ASAN)/lib
	$(ASAN_RUN) $(BIN)/python -m pytest -q -p no:cacheprovider $(KERNEL_TESTS) tests/streaming/test_session_state.py \
	  tests/streaming/test_resampler.py tests/streaming/test_pool.py -k "not triton and not gradient and not process"
	$(ASAN_RUN) $(BIN)/python -m fuzz kernels streams session_states --inputs $(or $(INPUTS),1000)

# On a machine with a GPU, with a Python that has a CUDA torch and what pyproject.toml lists: nothing is installed.
GPU_PYTHON ?= python3
gpu-build:
	USSFAST_BUILD=cuda $(GPU_PYTHON) setup.py -q build_ext --inplace

gpu-test: gpu-build
	FAIL_WITHOUT_CUDA=1 FAIL_WITHOUT_EXT=1 $(GPU_PYTHON) bench/gpu_run.py test

gpu-bench: gpu-build
	FAIL_WITHOUT_CUDA=1 FAIL_WITHOUT_EXT=1 $(GPU_PYTHON) bench/gpu_run.py bench

# For a GPU machine that is at hand for minutes, without a network. Here: make gpu-lease-pack DATA=manifest.json RUN=folder,
# which makes lease/; there, with lease/ beside the tree: make gpu-lease. docs/gpu.md
gpu-lease-pack: $(STAMP)
	$(BIN)/python bench/lease/pack.py $(DATA) $(if $(RUN),--run $(RUN)) $(if $(AUDIO),--audio $(AUDIO))

gpu-lease:
	$(GPU_PYTHON) bench/lease/lease.py --limit $(or $(LIMIT),570) -o $(or $(OUT),lease-out) $(if $(ROWS),--rows $(ROWS))

$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard csrc/*/* csrc/*/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 numpy "setuptools>=77.0.3" wheel ninja
	$(PIP) --no-build-isolation -e ".[test]"
	$(BIN)/python -c "from ussfast._ext import kernels; print(*kernels(), sep='\n')"
	touch $@

clean:
	rm -rf build dist *.egg-info ussfast/_C*.so ussfast/_build_info.json $(WEB)/model $(WEB)/ort $(STAMP)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
