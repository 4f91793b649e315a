# `make rehearse` and `make test` do everything on a fresh machine, environment included.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PACKAGES := src/echo4o dataset_builder training eval model_cards
# Looked for under its usual names; what needs it runs after the rest: it wants the cores.
CHROMIUM := $(shell for one in chromium chromium-browser google-chrome; do command -v $$one && break; done)
# A test that hangs ends after a quarter of an hour: it fails with all its stacks, the others go on.
NO_HANGS := -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true
ON_PAGES = $(BIN)/python -m pytest $(NO_HANGS) -n 2 --dist loadfile -q -rs -m browser $(wildcard tests/*/test_*browser.py tests/*/*/test_*browser.py)
# Each Space is a program of its own that imports the installed package.
SPACE_TYPES := --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache/spaces --allow-subclassing-any --no-warn-return-any --follow-imports=silent

.PHONY: setup rehearse test browser prove bench bench-gpu check wheel clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --progress-bar off --quiet \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e ".[dev]"
	touch $(READY)

rehearse: $(READY)  ## the whole line on the sandbox: data, training, scores, report, demo
	$(BIN)/echo4o release rehearse $(ARGS)

test: $(READY)  ## about 6 minutes on 2 idle cores; with a Chromium that includes `make browser`
	$(BIN)/python -m pytest $(NO_HANGS) -n 3 --dist worksteal -q -rs $(ARGS)
ifeq ($(ARGS),)
	$(if $(CHROMIUM),$(MAKE) browser,@echo "no Chromium here, so the pages were not tried: apt-get install chromium")
endif

browser: $(READY)  ## both Spaces and the report in a real Chromium; screenshots go to screenshots/
	$(ON_PAGES) $(ARGS) || { echo "once more, what failed: what fails twice is broken"; \
	  $(ON_PAGES) --last-failed --last-failed-no-failures none $(ARGS); }

prove: $(READY)  ## the long counts; figures go to benchmarks/results
	$(BIN)/python -m pytest -q -rs -m slow $(ARGS)

bench: $(READY)
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

bench-gpu: $(READY)  ## needs a CUDA device with 80 GB; nobody has run it yet
	$(BIN)/python -m pytest -q -rs -m gpu
	$(BIN)/python benchmarks/gpu_full_size.py $(ARGS)
	$(BIN)/python benchmarks/gpu_training.py

check: $(READY)  ## lint, format, types, dependency rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	cd spaces/generate && MYPYPATH=../../src ../../$(BIN)/mypy $(SPACE_TYPES) .
	cd spaces/explore && MYPYPATH=../../src ../../$(BIN)/mypy $(SPACE_TYPES) .
	$(BIN)/python -m pytest -q tests/test_layout.py

wheel: $(READY)  ## build the wheel and use it from an environment that never saw the sources
	rm -rf dist build
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	rm -rf build/clean && $(PYTHON) -m venv build/clean
	build/clean/bin/pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
	build/clean/bin/pip install --quiet --disable-pip-version-check -c constraints.txt tqdm
	cd build && clean/bin/python ../tests/helpers/check_wheel.py

clean:
	rm -rf build dist screenshots .pytest_cache .mypy_cache .ruff_cache rehearsal
