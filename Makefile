# These need python3 and make; .venv is made at the first call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# processes of the tests
JOBS ?= 2
INSTALLED := $(VENV)/.installed
TEST := $(VENV)/.test

.PHONY: demo test lint types check slow docs bench evidence wheel clean

demo: $(INSTALLED)
	$(BIN)/mist-avalanche compare --benchmark glyphs --benchmark-arg shift=2 --output results/demo \
		--strategy-arg n_random_features=2000 --resume \
		--strategies simplecil,simplecil+mist,ranpac,ranpac+mist,replay

test: lint types check

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TEST)
	$(BIN)/mypy

check: $(TEST)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist load

# compatibility with Avalanche, examples, notebook, types and wheel from outside
slow: $(TEST)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist load -m slow

# one folder per version, which needs no server and no network; warnings are errors
docs: SITE = build/site/$(shell sed -n 's/__version__ = "\(.*\)"/\1/p' mist_avalanche/_version.py)
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -n -q -b html docs $(SITE)
	@echo "Site: $(SITE)/index.html"

bench: $(INSTALLED)
	$(BIN)/python studies/performance

# DATA: a folder with real/ (weights and archives of photographs) and omniglot/, to measure anew;
# without it, the page is written from the rows in studies/evidence/measured.jsonl
evidence: $(INSTALLED)
	$(BIN)/python studies/evidence $(if $(DATA),--data $(DATA) --rows results/evidence.jsonl --precision bf16)

# wheel and sdist, the wheel made from the sdist
wheel: $(TEST)
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable .
	touch $@

# the extras test and docs
$(VENV)/.%: pyproject.toml | $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist results *.egg-info
