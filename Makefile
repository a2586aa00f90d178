# Needs python3 (3.10 to 3.13) with venv, and make. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

ECHO_MODEL := build/models/echo
# What make docker builds: a model's folder, and the image's name.
MODEL ?= $(ECHO_MODEL)
IMAGE ?= pyfuncserver-$(notdir $(abspath $(MODEL)))

# A descriptor set is not generated code and fits every runtime, but its bytes are compared:
# hence one compiler for everybody, which has wheels for every supported Python.
PROTOC_VERSION := 1.66.2
PROTOC := build/protoc-$(PROTOC_VERSION)
DESCRIPTORS := pyfuncserver/codec
# Which of protos/ is in which descriptor set.
PROTO_SETS := upi inference seldon
PROTOS_upi := $(wildcard protos/caraml/upi/v1/*.proto)
PROTOS_inference := $(wildcard protos/inference/*.proto)
PROTOS_seldon := protos/seldon/prediction.proto

# The published UPI messages, for the tests of models that bring them. Not in the environment:
# where they are installed the server uses them, and its own copy would go untested.
UPI_PACKAGE := build/upi-protos

# Extra arguments for pytest: make test ARGS="-k drain -x"
ARGS ?=

# The libraries of the models that `make test-kinds` serves; those of Hugging Face apart, for their
# size: make test-huggingface TORCH='torch<2.14'
KINDS := build/kinds
TORCH ?= torch

# The stores that `make test-stores` starts, and the libraries that talk to them.
STORES := build/stores

# What has a target of its own.
APART := faults clients kinds stores image
PYTEST := $(BIN)/python -m pytest $(APART:%=--ignore=test/%)
# A file's tests share daemons. In their order the long files come first, the unit tests last, so
# that all processes end at about the same time.
PROCESSES ?= 2
DIST = --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
# pytest's status where ARGS leaves no test; the other of two runs has them.
NONE_FOUND := [ $$? -eq 5 ]

# The fault tests' form, quick or full, and how long the soak lasts.
FAULTS ?= quick
SOAK_SEC ?= 3600
PYTEST_FAULTS = PYFUNCSERVER_FAULTS=$(FAULTS) $(BIN)/python -m pytest test/faults

BENCHMARKS := $(addprefix bench-,http grpc v2 peers batching workers shares heap memory start)

export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test test-clients test-stores test-kinds test-huggingface test-image \
	install-stores install-kinds install-huggingface \
	test-faults test-faults-shared test-faults-alone soak check lint format types protos \
	protos-check readme bench docker clean $(BENCHMARKS)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make the virtual environment with everything in it

$(INSTALLED): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$(PYTHON) is not a Python 3.10 to 3.13: try make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

run: setup $(ECHO_MODEL)/MLmodel ## Serve the echo model over HTTP (8080) and gRPC (9000)
	@http="$${CARAML_HTTP_PORT:-8080}"; grpc="$${CARAML_GRPC_PORT:-9000}"; \
	name="$${CARAML_MODEL_FULL_NAME:-$${CARAML_MODEL_NAME:-model}-$${CARAML_MODEL_VERSION:-1}}"; \
	printf '%s\n' '' 'Once it is up, try from another terminal:' '' \
		"curl -X POST http://localhost:$$http/v1/models/$$name:predict \\" \
		"  -d '{\"instances\": [[1, 2], [3, 4]]}'" '' \
		"grpcurl -plaintext -d '{\"prediction_table\": {\"name\": \"numbers\"," \
		"    \"columns\": [{\"name\": \"x\", \"type\": \"TYPE_DOUBLE\"}]," \
		"    \"rows\": [{\"row_id\": \"1\", \"values\": [{\"double_value\": 1.5}]}]}}' \\" \
		"  localhost:$$grpc caraml.upi.v1.UniversalPredictionService/PredictValues" ''; \
	CARAML_PROTOCOL="$${CARAML_PROTOCOL:-HTTP_JSON,UPI_V1}" \
		exec $(BIN)/python -m pyfuncserver --model_dir $(ECHO_MODEL)

$(ECHO_MODEL)/MLmodel: examples/echo/log_model.py | $(INSTALLED)
	rm -rf $(ECHO_MODEL)
	$(BIN)/python examples/echo/log_model.py --out $(ECHO_MODEL)
	@touch $@

test: setup $(UPI_PACKAGE)/.installed ## Run the tests
	$(PYTEST) -m "not alone" -p no:benchmark $(DIST) $(ARGS) || $(NONE_FOUND)
	$(PYTEST) -m alone $(ARGS) || $(NONE_FOUND)

test-clients: setup ## Run the tests with real clients (installs them under build/clients)
	$(BIN)/python -m pytest test/clients $(ARGS)

test-kinds: $(KINDS)/.installed ## Run the tests of models of other libraries (installed under build/kinds)
	$(KINDS)/bin/python -m pytest test/kinds $(ARGS)

test-huggingface: $(KINDS)/.huggingface ## Run those with PyTorch and transformers, which are large
	$(KINDS)/bin/python -m pytest test/kinds/test_huggingface.py $(ARGS)

install-stores: $(STORES)/.installed

install-kinds: $(KINDS)/.installed

install-huggingface: $(KINDS)/.huggingface

$(KINDS)/.installed: setup.py
	$(PYTHON) -m venv $(KINDS)
	$(KINDS)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test-kinds]'
	@touch $@

$(KINDS)/.huggingface: $(KINDS)/.installed
	$(KINDS)/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' 'transformers>=4.40'
	@touch $@

test-stores: $(STORES)/.installed ## Run the tests of models in real stores (installed under build/stores)
	$(STORES)/bin/python -m pytest test/stores $(ARGS)

$(STORES)/.installed: setup.py
	$(PYTHON) -m venv $(STORES)
	$(STORES)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test-stores]'
	@touch $@

test-image: setup ## Build an image with buildah, run it with podman and look at it (as root)
	$(BIN)/python -m pytest test/image $(ARGS)

test-faults: setup ## Run the fault tests and print their figures (FAULTS=full: as promised, longer)
	$(PYTEST_FAULTS) $(ARGS)

# In two parts, of which the first looks at no times, so that others may run beside it.
test-faults-shared: setup
	$(PYTEST_FAULTS) -m "not alone" $(ARGS)

test-faults-alone: setup
	$(PYTEST_FAULTS) -m alone $(ARGS)

soak: setup ## Serve mixed load for an hour and look for what grows (SOAK_SEC=300: 5 minutes)
	SOAK_SEC=$(SOAK_SEC) $(BIN)/python -m pytest test/faults/test_soak.py $(ARGS)

check: lint types protos-check test ## What CI asks first: lint, types, import contracts, protos, tests

lint: setup ## Check style and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

format: setup ## Lay the code out and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: setup ## Check types
	$(BIN)/mypy

protos: $(PROTOC)/.installed ## Compile protos/ into the committed descriptor sets
	$(foreach set,$(PROTO_SETS),$(call compile_protos,$(set),$(DESCRIPTORS)))

protos-check: $(PROTOC)/.installed ## Compare the committed descriptor sets with fresh ones
	$(foreach set,$(PROTO_SETS),$(call compile_protos,$(set),build))
	@for set in $(PROTO_SETS); do cmp build/$$set.binpb $(DESCRIPTORS)/$$set.binpb || \
		{ echo "$$set.binpb is not what protos/ gives: run make protos and commit it" >&2; exit 1; }; done

define compile_protos
$(PROTOC)/bin/python -m grpc_tools.protoc --proto_path=protos --include_imports \
	--descriptor_set_out=$(2)/$(1).binpb $(sort $(PROTOS_$(1)))

endef

$(PROTOC)/.installed:
	$(PYTHON) -m venv $(PROTOC)
	$(PROTOC)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
		'grpcio-tools==$(PROTOC_VERSION)' 'setuptools<81'
	@touch $@

$(UPI_PACKAGE)/.installed: | $(INSTALLED)
	rm -rf $(UPI_PACKAGE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(UPI_PACKAGE) \
		'caraml-upi-protos==1.0.0' 'googleapis-common-protos>=1.56,<2'
	@touch $@

readme: setup ## Write README's table of settings anew
	$(BIN)/python -m pyfuncserver.config README.md

bench: setup ## Time single requests to the daemon (pytest-benchmark)
	$(BIN)/python -m pytest benchmark --benchmark-only $(ARGS)

# They need wrk and h2load. ARGS="--rounds 3 --seconds 2 --sizes small" makes them shorter.
bench-http: ## Beside Merlin's server, mlflow models serve and a bare uvicorn, over HTTP
bench-grpc: ## Beside Merlin's server and a bare grpcio, over UPI
bench-v2: ## Beside KServe's SDK and MLServer, over V2's gRPC, typed and raw
bench-peers: ## Beside all model servers that PyPI has (installs them under build/bench)
bench-batching: ## With batches and without
bench-workers: ## Two workers beside one
bench-shares: ## What metrics, request ids and admission cost
bench-heap: ## What the settings of the garbage collector give
bench-memory: ## Workers that share a GiB of weights
bench-start: ## From exec to serving, beside loading the model alone
$(BENCHMARKS): bench-%: setup
	$(BIN)/python -W ignore -m benchmark $* $(ARGS)

docker: setup $(if $(filter $(ECHO_MODEL),$(MODEL)),$(ECHO_MODEL)/MLmodel) ## Build the image of MODEL=DIR (the echo model)
	$(BIN)/python -m pyfuncserver build --model_dir $(MODEL) --image $(IMAGE) $(ARGS)

clean: ## Remove what the other targets made
	rm -rf build dist $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .benchmarks
