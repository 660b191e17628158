# One target per command. Each target calls one script. `make` alone lists the targets, with the text after `##`.

SHELL := bash
.DEFAULT_GOAL := help

# The shell reads ARGS as if it were typed after the command. Expanded by make, it would lose dollar signs and newlines.
unexport ARGS
export RAW_ARGS := $(value ARGS)
export RAW_NAME := $(value NAME)
WITH_ARGS = eval "args=($$RAW_ARGS"$$'\n)' &&
PYTHON ?= .venv/bin/python
python = "$(PYTHON:~/%=$(HOME)/%)"

TARGETS := $(shell sed -n 's/^\([a-z_0-9]*\):.*/\1/p' $(MAKEFILE_LIST))
.PHONY: $(TARGETS)

# Refuse mistyped variables and targets. Make ignores a mistyped variable, and runs the targets before a mistyped one.
VARIABLES := ARGS FOREGROUND GPUS PROCS PYTHON TORCH_BACKEND DATA_ROOT EXPERIMENTS_DIR MEMORY_LIMIT \
	LAUNCH_WITH LAUNCH_WAIT STOP_WAIT MONITOR_INTERVAL DATASET MINUTES SEEDS NAME
typed := $(foreach variable,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(variable)))),$(variable)))
$(foreach variable,$(filter-out $(VARIABLES),$(typed)),$(error $(variable)= is unknown here. Flags: ARGS="--flag value". \
	Variables of other programs: $(variable)=value make TARGET))
$(foreach variable,$(filter DATASET MINUTES SEEDS,$(typed)),$(if $(filter-out record,$(MAKECMDGOALS)), \
	$(error $(variable)= is for make record. Flags of other targets: ARGS="--flag value")))
$(foreach goal,$(filter-out $(TARGETS),$(MAKECMDGOALS)),$(error no target is called '$(goal)': make lists them. \
	Flags: ARGS="--flag value"))

help: ## show this list
	@echo 'make TARGET ARGS="--flag value"    pass flags to the task, quoted as in a shell'
	@echo 'make TARGET ARGS=--help            list all flags of the task'
	@echo 'make TARGET FOREGROUND=1           run in this terminal, without a session'
	@echo 'make TARGET PYTHON=COMMAND         use an existing environment, not .venv'
	@echo
	@sed -n 's/^\([a-z_0-9]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  %-22s  %s\n", $$1, $$2 }'

environment:
	@scripts/sh/setup.sh --quiet

test_environment:
	@scripts/sh/setup.sh --quiet --dev

setup: ## create .venv and name missing system packages
	@scripts/sh/setup.sh

doctor: ## check this machine, and say what to type
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh doctor "$${args[@]}"

demo: ## train on digits and generate images, in two minutes
	@$(WITH_ARGS) scripts/sh/demo.sh "$${args[@]}"

train_ddpm: environment ## train a diffusion model in a detached session
	@$(WITH_ARGS) scripts/sh/launch.sh train_ddpm "$${args[@]}"

train_flow: environment ## train a flow model in a detached session
	@$(WITH_ARGS) scripts/sh/launch.sh train_flow "$${args[@]}"

train_vae: environment ## train an autoencoder in a detached session
	@$(WITH_ARGS) scripts/sh/launch.sh train_vae "$${args[@]}"

train_latent: environment ## train a latent flow in a detached session
	@$(WITH_ARGS) scripts/sh/launch.sh train_latent "$${args[@]}"

distill: environment ## train a student of a run: one evaluation per image
	@$(WITH_ARGS) scripts/sh/launch.sh distill "$${args[@]}"

train_mnist: environment ## train a flow with the recipe mnist: digits
	@$(WITH_ARGS) scripts/sh/launch.sh train_flow --recipe mnist "$${args[@]}"

train_fashion_mnist: environment ## train a flow with the recipe fashion_mnist: clothes
	@$(WITH_ARGS) scripts/sh/launch.sh train_flow --recipe fashion_mnist "$${args[@]}"

train_emnist: environment ## train a flow with the recipe emnist: letters
	@$(WITH_ARGS) scripts/sh/launch.sh train_flow --recipe emnist "$${args[@]}"

train_cifar10: environment ## train a flow with the recipe cifar10: photographs
	@$(WITH_ARGS) scripts/sh/launch.sh train_flow --recipe cifar10 "$${args[@]}"

recipes: environment ## list the recipes: named settings of the tasks
	@$(WITH_ARGS) $(python) -m scripts.recipes "$${args[@]}"

generate: environment ## generate images: ARGS="--run latest --num_samples 64"
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh generate "$${args[@]}"

export: environment ## export a run as an HTML page, ONNX or a folder
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh export "$${args[@]}"

evaluate: environment ## measure generated images of a run or a file
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh evaluate "$${args[@]}"

train_classifier: environment ## train or verify a feature network for evaluate
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh train_classifier "$${args[@]}"

reconstruct: environment ## reconstruct test images with an autoencoder
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh reconstruct "$${args[@]}"

encode_dataset: environment ## encode a data set once, for train_latent
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh encode_dataset "$${args[@]}"

visualize_guidance: environment ## compare guidance scales: images, accuracy, diversity
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh visualize_guidance "$${args[@]}"

visualize_distribution: environment ## plot real and generated images on one map
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh visualize_distribution "$${args[@]}"

visualize_schedules: environment ## plot noise schedules: alpha, sigma and log-SNR
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh visualize_schedules "$${args[@]}"

interpolate: environment ## interpolate between noises, test images or classes
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh interpolate "$${args[@]}"

inpaint: environment ## fill in hidden parts of test images
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh inpaint "$${args[@]}"

image_to_image: environment ## add noise to test images and denoise them again
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh image_to_image "$${args[@]}"

status: environment ## list all runs: state, step, loss, age, folder
	@$(WITH_ARGS) $(python) -m scripts.status "$${args[@]}"

report: environment ## write pages about all runs, to look at in a browser
	@$(WITH_ARGS) $(python) -m scripts.report "$${args[@]}"

serve: environment ## serve the report on 127.0.0.1, updated as runs train
	@$(WITH_ARGS) $(python) -m scripts.serve "$${args[@]}"

sessions: ## list the running sessions
	@scripts/sh/sessions.sh list

attach: ## attach to a running session: ARGS=NAME if several
	@$(WITH_ARGS) scripts/sh/sessions.sh attach "$${args[@]}"

monitor: ## attach to a session's monitor of CPU, memory and GPUs
	@$(WITH_ARGS) scripts/sh/sessions.sh monitor "$${args[@]}"

tensorboard: environment ## show the runs in TensorBoard: ARGS="--port 6007"
	@$(WITH_ARGS) scripts/sh/tensorboard.sh "$${args[@]}"

stop: ## save a checkpoint and stop: ARGS=NAME or ARGS=--all
	@$(WITH_ARGS) scripts/sh/sessions.sh stop "$${args[@]}"

test: test_environment ## run the tests; ARGS=--all: the slow ones too
	@$(WITH_ARGS) scripts/sh/test.sh "$${args[@]}"

lint: test_environment ## run ruff, pyright, shellcheck and node --check
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m pyright
	shellcheck --external-sources scripts/sh/*.sh .ci/run
	@if command -v node >/dev/null; then for file in models/*/*/*.js; do node --check "$$file" || exit 1; done; \
		else echo 'node is not installed: the JavaScript was not checked' >&2; fi

record: environment ## add a row to the records: DATASET=mnist MINUTES=10
	@$(WITH_ARGS) scripts/sh/launch.sh record $(if $(DATASET),--dataset $(DATASET)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(SEEDS),--seeds $(SEEDS)) "$${args[@]}"

study: environment ## answer a question: NAME=losses; alone: list them
	@$(WITH_ARGS) scripts/sh/launch.sh study $(if $(filter NAME,$(typed)),--name "$$RAW_NAME") "$${args[@]}"

pretrained: environment ## train and measure the models in models/pretrained
	@$(WITH_ARGS) scripts/sh/launch.sh pretrained "$${args[@]}"

bench: environment ## measure the speed of the loop and the samplers
	@$(WITH_ARGS) $(python) -m scripts.bench "$${args[@]}"

bench_peers: environment ## compare the loop with two other libraries
	@$(WITH_ARGS) $(python) -m scripts.bench_peers "$${args[@]}"

clean: ## delete caches and logs of ended sessions, not runs
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .hypothesis
	scripts/sh/sessions.sh forget
