# Every habit of the project is one word. `make demo` and `make test` need python3, make and a C++ compiler.
PYTHON ?= python3
VENV ?= .venv
# Taken only where the environment has no torch yet.
TORCH ?= torch==2.13.0
# Where `make gpu` writes its results.
OUT ?= out/gpu
# Where `make bench` writes its results.
BENCH ?= out/bench
ONLY ?=
# Where `make profile` writes its report.
PROFILE ?= out/profile

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: install demo test quick lint format bench peers profile gpu clean

SOURCES = $(wildcard csrc/*/* setup.py pyproject.toml)

install: $(VENV)/.installed

$(VENV)/.installed: $(SOURCES)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "import torch" 2>/dev/null || { echo "installing $(TORCH)"; $(PIP) install "$(TORCH)"; }
	@$(PIP) install "setuptools>=77" "pybind11>=2.12" ninja
	@echo "compiling anchor_ext"
	@$(PIP) install --no-build-isolation -e ".[test]"
	@touch $@

demo: install
	@$(BIN)/python benchmarks/demo.py

test: install
	@$(BIN)/pytest

# What a change breaks first, in about a minute and with something of every promise.
quick: install
	@$(BIN)/pytest -x -m quick

LINTERS = "ruff==0.17.*" "clang-format==23.*" "mypy==2.4.*"

lint: install
	@$(PIP) install $(LINTERS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.cu')
	$(BIN)/mypy

format: install
	@$(PIP) install $(LINTERS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu')

# Prints all timings of the CPU and keeps them in BENCH. Half an hour or more; ONLY="matching losses" runs some.
bench: install
	@$(PIP) install scikit-learn torchmetrics pycocotools
	@PYTHON="$(abspath $(BIN)/python)" OUT="$(abspath $(BENCH))" bash benchmarks/bench.sh $(ONLY)

# The frameworks whose generators `make bench` and the tests compare with, beside the torch that is there. With a folder
# SUITES of their sources, as they clone, their own suites run as well: as they are, with the drop-ins and accelerated.
peers: install
	@$(PIP) install torchvision "torch==$$($(BIN)/python -c 'import torch; print(torch.__version__.split("+")[0])')"
	@$(PIP) install --no-deps -r tests/peers.txt
	@$(BIN)/python -c "import torchvision"
	@test -z "$(SUITES)" || $(BIN)/python tests/suites.py "$(SUITES)"

# Needs nsys, and says what to install where there is none.
profile: install
	@PYTHON="$(BIN)/python" OUT="$(PROFILE)" bash benchmarks/profile.sh

# On a machine with a GPU, with the torch that $(PYTHON) has: everything that a GPU must show, in some ten minutes.
gpu:
	@PYTHON="$(PYTHON)" OUT="$(OUT)" bash benchmarks/gpu.sh

clean:
	rm -rf build dist out *.egg-info anchor_ext/*.so
