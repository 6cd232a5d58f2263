# make demo: install, synthesise an archive, triage it.   make test: install, run every test.
# The newest Python that runs and can make a virtual environment: shims of pyenv exist for versions that do not run.
can_make_venv = $(shell $(1) -c 'import ensurepip, venv' >/dev/null 2>&1 && echo $(1))
newest_python = $(firstword $(foreach version,3.13 3.12 3.11,$(call can_make_venv,python$(version))))
PYTHON ?= $(or $(newest_python),$(error Python 3.11, 3.12 or 3.13 with venv is needed; name it with PYTHON=))
BIN := .venv/bin
DEMO ?= demo
JOBS ?= 2

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

demo: .venv/.installed
	@rm -rf $(DEMO)
	$(BIN)/emqa synthesise $(DEMO)/archive --profile demo --n 72 --seed 7
	$(BIN)/emqa triage $(DEMO)/archive --workspace $(DEMO)/triage --workers 2

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
