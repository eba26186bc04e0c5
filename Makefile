# Everything runs in .venv, which the first target that needs it creates. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
MLFLOW_INSTALLED := .venv-mlflow/.installed
PEERS_INSTALLED := .venv-mlserver/.installed .venv-bentoml/.installed

.PHONY: run stop test test-slow test-legacy test-mlflow check bench bench-peers proto constraints clean

run: $(INSTALLED) ## Start Ray and Serve, run the main job, print what to try next; leaves it serving
	@$(BIN)/python -m deployments.local up
	@$(BIN)/python -m deployments.demo

stop: ## Stop what `make run` started, and only that
	@test ! -x $(BIN)/python || $(BIN)/python -m deployments.local down

test: $(INSTALLED) ## The whole test suite; what fails is run once more, and named in the summary (RERUN): clusters on a busy machine
	$(BIN)/pytest --reruns 1 --numprocesses 2 --dist loadgroup --no-loadscope-reorder

test-slow: $(INSTALLED) ## What takes longer than `make test` allows
	$(BIN)/pytest -m slow

test-legacy: $(INSTALLED) ## The extra `legacy`, which needs an older XGBoost, in an environment of its own: .venv-legacy
	@test -x .venv-legacy/bin/python || $(PYTHON) -m venv .venv-legacy
	@$(BIN)/uv pip install --quiet --python .venv-legacy/bin/python --constraint constraints-legacy.txt --editable '.[legacy]' pytest
	.venv-legacy/bin/pytest --override-ini addopts= --override-ini filterwarnings= --noconftest tests/legacy

test-mlflow: $(MLFLOW_INSTALLED) ## Models to and from MLflow, in an environment of its own: .venv-mlflow
	.venv-mlflow/bin/pytest --override-ini addopts= --override-ini filterwarnings= --noconftest --import-mode=importlib tests/mlflow

check: $(INSTALLED) ## Format, lint, types, and the arrows between the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) $(MLFLOW_INSTALLED) ## What it costs, side by side with the hand-written equivalent and with peers
	$(BIN)/python -m benchmarks

bench-peers: $(MLFLOW_INSTALLED) $(PEERS_INSTALLED) ## Servers of others, in environments of their own, for `make bench` to measure

proto: $(INSTALLED) ## Compile the messages of the gRPC interface
	$(BIN)/python -m grpc_tools.protoc -Ideployments --descriptor_set_out=deployments/open_inference.binpb deployments/open_inference.proto

constraints: $(INSTALLED) ## Resolve every dependency anew
	$(BIN)/uv pip compile pyproject.toml --universal --upgrade --extra demo --extra dev --extra bench \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links -o constraints.txt
	echo pytest | $(BIN)/uv pip compile pyproject.toml - --universal --upgrade --extra legacy \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links -o constraints-legacy.txt
	echo pytest | $(BIN)/uv pip compile pyproject.toml - --universal --upgrade --extra mlflow \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links -o constraints-mlflow.txt
	for peer in mlserver bentoml; do \
		echo $$peer $$([ $$peer = mlserver ] && echo mlserver-xgboost || echo xgboost) | tr ' ' '\n' \
			| $(BIN)/uv pip compile - --universal --upgrade --no-header --no-annotate \
			--no-emit-index-url --no-emit-find-links -o benchmarks/inference/$$peer.txt; \
	done

clean: stop ## Remove the environment; models and data stay
	rm -rf .venv .venv-legacy .venv-mlflow .venv-mlserver .venv-bentoml

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' constraints.txt)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[demo,dev,bench]'
	@touch $@

$(MLFLOW_INSTALLED): $(INSTALLED) pyproject.toml constraints-mlflow.txt
	@test -x .venv-mlflow/bin/python || $(PYTHON) -m venv .venv-mlflow
	@$(BIN)/uv pip install --quiet --python .venv-mlflow/bin/python --constraint constraints-mlflow.txt --editable '.[mlflow]' pytest
	@touch $@

.venv-%/.installed: benchmarks/inference/%.txt $(INSTALLED)
	@test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	@$(BIN)/uv pip install --quiet --python .venv-$*/bin/python --requirement $<
	@touch $@
