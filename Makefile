# Set-up, the main job, and the tests. Every target makes the virtual environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-documents test-cluster check docs format clean

demo: $(INSTALLED)  ## run the main job with the embedded data and teachers
	$(BIN)/python distill/run.py

test: $(INSTALLED)  ## pass the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-documents: $(INSTALLED)  ## follow every page in small, and hold the demo against its plan
	$(BIN)/python -m pytest tests/documents/test_plan_agreement.py  # alone: it takes times
	$(BIN)/python -m pytest -n 2 tests/documents/test_pages.py tests/documents/test_recipes.py

test-cluster: $(INSTALLED)  ## try cluster.yaml on three hosts made here; needs root
	$(BIN)/python -m pytest -s tests/cluster

check: $(INSTALLED)  ## static checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

docs: $(INSTALLED)  ## build the documentation into build/site; warnings are errors
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/site

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
