# Everything runs in .venv, which the first target makes. PYTHON chooses the interpreter: make PYTHON=python3.12 demo
PYTHON ?= python3
VENV ?= .venv
# make test VENV=.venv-newest CONSTRAINTS=/dev/null takes the newest versions, in an environment of its own.
CONSTRAINTS ?= constraints.txt
RUN = $(VENV)/bin/python -m
# make test COVERAGE=--cov=shrinkml_env measures the coverage, too, and takes a quarter longer.
COVERAGE ?=
QUICK = -n 2 --dist worksteal -m "not slow and not docs and not results"

.PHONY: demo test quick test-oldest lint types unit docs links notebooks bench wheel dist clean

demo: $(VENV)/experiments  ## Compress the embedded recogniser and show the result.
	$(RUN) experiments.search environment=v1 agent=ppo constraint.budget=0.4 budget=200

test: lint types unit  ## Everything that must pass before a change lands.

lint: $(VENV)/dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(VENV)/dev
	$(RUN) mypy

unit: $(VENV)/dev
	$(RUN) pytest -n 2 --dist worksteal $(COVERAGE)

quick: $(VENV)/dev  ## The fast tests, in about a minute: after each change.
	$(RUN) pytest $(QUICK)

test-oldest: $(VENV)-oldest/dev  ## The fast tests with the oldest versions that pyproject.toml allows, whose own deprecations are not ours.
	$(VENV)-oldest/bin/python -m pytest $(QUICK) -W ignore::DeprecationWarning

docs: $(VENV)/docs  ## The site, offline and with warnings as errors: docs/_build/html/index.html.
	$(RUN) sphinx -W --keep-going docs docs/_build/html

links: $(VENV)/docs  ## Follow the links to other sites, which needs a network.
	$(RUN) sphinx -b linkcheck docs docs/_build/linkcheck

notebooks: $(VENV)/docs  ## Execute the notebooks again, in place; LIBRISPEECH=DIR says where that is (a quarter of an hour).
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .[hf]
	TQDM_DISABLE=1 $(VENV)/bin/jupyter execute --inplace docs/notebooks/*.ipynb

bench: $(VENV)/experiments  ## Speed against plain references; writes docs/performance.md (about 40 minutes).
	$(RUN) benchmarks

wheel: $(VENV)-build/dev  ## dist/shrinkml_env-*.whl
	$(VENV)-build/bin/python -m build --wheel

dist: $(VENV)-build/dev  ## What would go to PyPI, wheel and source, checked.
	rm -rf dist
	$(VENV)-build/bin/python -m build
	$(VENV)-build/bin/twine check --strict dist/*

clean:
	rm -rf $(VENV) $(VENV)-build $(VENV)-newest $(VENV)-oldest build dist docs/_build docs/api docs/environments *.egg-info

# One stamp for each set of extras.
$(VENV)/experiments: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) torch torchaudio
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .[experiments]
	touch $@

$(VENV)-oldest/dev: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/pip install --quiet --disable-pip-version-check -c constraints-oldest.txt torch torchaudio
	$(VENV)-oldest/bin/pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e .[experiments,hf] \
		hypothesis mo-gymnasium pytest pytest-cov pytest-xdist
	touch $@

$(VENV)/docs: $(VENV)/experiments
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .[experiments,docs]
	touch $@

# Building needs nothing but the builder, which makes an environment of its own.
$(VENV)-build/dev: constraints.txt
	$(PYTHON) -m venv $(VENV)-build
	$(VENV)-build/bin/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) build twine
	touch $@

$(VENV)/dev: $(VENV)/experiments
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .[experiments,export,hf,mlflow,quantise,sweeps,wandb,dev]
	touch $@
