# make demo: install, draw images, show every step on them.   make test: install, run every test.
# The newest Python that runs and can make a virtual environment: shims of pyenv exist for versions that do not run.
can_make_venv = $(shell $(1) -c 'import ensurepip, venv' >/dev/null 2>&1 && echo $(1))
newest_python = $(firstword $(foreach version,3.13 3.12 3.11,$(call can_make_venv,python$(version))))
PYTHON ?= $(or $(newest_python),$(error Python 3.11, 3.12 or 3.13 with venv is needed; name it with PYTHON=))
BIN := .venv/bin
DEMO ?= demo
JOBS ?= 3

.PHONY: install install-dev install-gpu demo test test-gpu lint docs bench bench-gpu lock clean
.DELETE_ON_ERROR:

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing emqa_dask and its dependencies (torch alone is large: this takes minutes once)"
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,s3]'
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps \
		"dask-cuda; platform_system == 'Linux' and platform_machine == 'x86_64'" \
		"cucim-cu13; platform_system == 'Linux' and platform_machine == 'x86_64'"
	@# detectron2's wheels end at Python 3.10: its Python code alone, in a folder of its own, for the tests of its back end
	$(BIN)/python -m pip install -q --no-deps --upgrade --python-version 3.10 --only-binary=:all: \
		--target .venv/detectron2 sal-detectron2==0.7.2
	@echo '$(CURDIR)/.venv/detectron2' > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/detectron2.pth"
	@touch $@

# dask-cuda pins the Dask that it was released with: GPU machines have an environment of their own.
.venv-gpu/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install -q --upgrade pip
	grep -vE '^(dask|distributed)==' constraints.txt > .venv-gpu/constraints.txt
	.venv-gpu/bin/python -m pip install -q -c .venv-gpu/constraints.txt -e '.[dev,s3,gpu]'
	@touch $@

install: .venv/.installed
install-dev: .venv/.installed-dev
install-gpu: .venv-gpu/.installed

# Five steps on drawn images, so that every answer can be compared with the truth in $(DEMO)/*.truth.
demo: .venv/.installed
	@rm -rf $(DEMO)
	@printf '\n== 1. Triage: which images of a mixed archive can be trusted?\n'
	$(BIN)/emqa synthesise $(DEMO)/archive --profile demo --n 72 --seed 7
	$(BIN)/emqa triage $(DEMO)/archive --workspace $(DEMO)/triage --workers 2
	@printf '\n== 2. Tune: which detector settings find the columns that the crystal has?\n'
	$(BIN)/emqa synthesise $(DEMO)/crystal --profile atomic-stem --n 8 --seed 49
	$(BIN)/emqa tune log $(DEMO)/crystal --workspace $(DEMO)/crystal.emqa --lattice $(DEMO)/crystal.truth/SrTiO3-001.toml --nm-per-pixel 0.0113 --cohort '*' --images 3 --evaluations 24 --out $(DEMO)/tuned.toml --workers 2
	@printf '\n== 3. Order: where is the crystal disordered?\n'
	$(BIN)/emqa tune order $(DEMO)/crystal.emqa --settings $(DEMO)/tuned.toml --out $(DEMO)/order --workers 2
	@printf '\n== 4. Calibrate: 20 labelled images of one foil teach when to trust its detector\n'
	$(BIN)/emqa synthesise $(DEMO)/foil --profile foil --n 36 --seed 3 --labels 20
	$(BIN)/emqa triage $(DEMO)/foil --workspace $(DEMO)/foil.emqa --detector cavity-tem --workers 2
	$(BIN)/emqa calibrate $(DEMO)/foil.emqa $(DEMO)/foil.truth/labels.json
	$(BIN)/emqa rescore $(DEMO)/foil.emqa
	@printf '\n== 5. Estimate: how dense and how large are the cavities? From 20 labels, then from all (the truth)\n'
	$(BIN)/emqa estimate $(DEMO)/foil.emqa $(DEMO)/foil.truth/labels.json --show density --show mean_diameter
	$(BIN)/emqa estimate $(DEMO)/foil.emqa $(DEMO)/foil.truth/annotations.json --show density --show mean_diameter --out $(DEMO)/foil.truth/estimates.csv
	@printf '\n== Open\n'
	@printf '  %-42s %s\n' $(DEMO)/triage/report/index.html '1: every file with its verdict and the reason' \
		$(DEMO)/tuned.tune '2: the settings that were tried, as figures' \
		$(DEMO)/order/overlays '3: a map of each image' \
		$(DEMO)/foil.emqa/report/index.html '4: the foil after calibration' \
		$(DEMO)/foil.emqa/models/cavity-tem/trust.png '4: trust by number of labels' \
		$(DEMO)/foil.emqa/estimates.parquet '5: all quantities with their intervals'

test: .venv/.installed-dev
	$(BIN)/pytest -n $(JOBS) -m "not gpu"

test-gpu: .venv-gpu/.installed
	.venv-gpu/bin/python -m pytest -m gpu tests/gpu

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Sphinx with every warning an error; the pages are in docs/_build/html.
docs: .venv/.installed-dev
	$(BIN)/python -m sphinx -q -W -n --keep-going -b html -d docs/_build/doctrees docs docs/_build/html

bench: .venv/.installed-dev
	$(BIN)/python -m benchmarks.bench_end_to_end
	$(BIN)/python -m benchmarks.bench_faults

# Under eight minutes on one GPU, without a network; a table, and all figures in bench-gpu.json.
bench-gpu: .venv-gpu/.installed
	.venv-gpu/bin/python -m benchmarks.bench_gpu --json bench-gpu.json

# One lock for all Pythons and extras. Versions in it stay; `make lock UPGRADE=--upgrade` takes the newest ones.
# 3.11.1: ome-zarr refuses 3.11.0. The marker that nearly all lines share is left out.
lock: .venv/bin/python
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile -q --universal --fork-strategy fewest --python-version 3.11.1 --all-extras \
		--no-header --no-annotate $(UPGRADE) pyproject.toml -o constraints.txt
	sed -i "s/ ; python_full_version < '3.14' and sys_platform == 'linux'$$//" constraints.txt

clean:
	rm -rf .venv .venv-gpu docs/_build docs/_generated $(DEMO)
