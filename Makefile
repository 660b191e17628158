# What one types. Each target calls one script, and `make` alone lists them with the comment after the two hashes.

SHELL := bash
.DEFAULT_GOAL := help

# ARGS is read as if it were typed after the command: in make's own expansion dollar signs and newlines would be lost.
unexport ARGS
export RAW_ARGS := $(value ARGS)
WITH_ARGS = eval "args=($$RAW_ARGS"$$'\n)' &&
PYTHON := .venv/bin/python

.PHONY: help environment setup demo test lint bench bench_peers record train_ddpm train_flow train_vae train_latent \
	train_mnist train_fashion_mnist train_emnist train_cifar10 recipes generate evaluate train_classifier reconstruct \
	encode_dataset visualize_guidance visualize_distribution interpolate inpaint image_to_image sessions status attach \
	stop clean

help: ## this list
	@echo 'make TARGET ARGS="--flag value"    flags for the task, quoted as in a shell'
	@echo 'make TARGET ARGS=--help            every flag of the task'
	@echo 'make TARGET FOREGROUND=1           run it here, not in a detached session'
	@echo
	@sed -n 's/^\([a-z_0-9]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  %-22s  %s\n", $$1, $$2 }'

environment:
	@scripts/sh/setup.sh --quiet

setup: ## make .venv, and name what the system lacks
	@scripts/sh/setup.sh

demo: ## in two minutes, offline: train, generate each digit
	@$(WITH_ARGS) scripts/sh/demo.sh "$${args[@]}"

train_ddpm: environment ## train a diffusion model, in a detached session
	@$(WITH_ARGS) scripts/sh/launch.sh train_ddpm "$${args[@]}"

train_flow: environment ## train a flow model, in a detached session
	@$(WITH_ARGS) scripts/sh/launch.sh train_flow "$${args[@]}"

train_vae: environment ## train an autoencoder, in a detached session
	@$(WITH_ARGS) scripts/sh/launch.sh train_vae "$${args[@]}"

train_latent: environment ## train a flow in its latents, in a detached session
	@$(WITH_ARGS) scripts/sh/launch.sh train_latent "$${args[@]}"

train_mnist: environment ## a flow with measured settings: handwritten digits
	@$(WITH_ARGS) scripts/sh/launch.sh train_flow --recipe mnist "$${args[@]}"

train_fashion_mnist: environment ## the same: clothes
	@$(WITH_ARGS) scripts/sh/launch.sh train_flow --recipe fashion_mnist "$${args[@]}"

train_emnist: environment ## the same: handwritten letters
	@$(WITH_ARGS) scripts/sh/launch.sh train_flow --recipe emnist "$${args[@]}"

train_cifar10: environment ## the same: small colour photographs
	@$(WITH_ARGS) scripts/sh/launch.sh train_flow --recipe cifar10 "$${args[@]}"

recipes: environment ## named settings for every data set and task
	@$(WITH_ARGS) $(PYTHON) -m scripts.recipes "$${args[@]}"

generate: environment ## generate images: ARGS="--run latest --num_samples 64"
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh generate "$${args[@]}"

evaluate: environment ## measure samples of a run, or those of a FILE
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh evaluate "$${args[@]}"

train_classifier: environment ## a feature network for evaluate, or --verify_only
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh train_classifier "$${args[@]}"

reconstruct: environment ## what an autoencoder makes of test images, with errors
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh reconstruct "$${args[@]}"

encode_dataset: environment ## encode a data set once, for train_latent
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh encode_dataset "$${args[@]}"

visualize_guidance: environment ## classes by guidance scales; accuracy and diversity
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh visualize_guidance "$${args[@]}"

visualize_distribution: environment ## real and generated images on one map
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh visualize_distribution "$${args[@]}"

interpolate: environment ## between noises, test images or classes
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh interpolate "$${args[@]}"

inpaint: environment ## fill in the hidden part of test images
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh inpaint "$${args[@]}"

image_to_image: environment ## from test images under partial noise
	@$(WITH_ARGS) FOREGROUND=1 scripts/sh/launch.sh image_to_image "$${args[@]}"

status: environment ## every run: state, step, loss, age, folder
	@$(WITH_ARGS) $(PYTHON) -m scripts.status "$${args[@]}"

sessions: ## the detached sessions that are running
	@scripts/sh/sessions.sh list

attach: ## look at a running session: ARGS=NAME if several
	@$(WITH_ARGS) scripts/sh/sessions.sh attach "$${args[@]}"

stop: ## stop a session after a checkpoint: ARGS=NAME or --all
	@$(WITH_ARGS) scripts/sh/sessions.sh stop "$${args[@]}"

test: environment ## the tests
	@$(WITH_ARGS) $(PYTHON) -m pytest "$${args[@]}"

lint: environment ## ruff, pyright and shellcheck
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m pyright
	shellcheck --external-sources scripts/sh/*.sh .ci/run

record: environment ## a row of the records: DATASET=mnist MINUTES=10
	@$(WITH_ARGS) scripts/sh/launch.sh record $(if $(DATASET),--dataset $(DATASET)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(SEEDS),--seeds $(SEEDS)) "$${args[@]}"

bench: environment ## what the loop costs, and every sampler
	@$(WITH_ARGS) $(PYTHON) -m scripts.bench "$${args[@]}"

bench_peers: environment ## our loop beside those of two other libraries
	@$(WITH_ARGS) $(PYTHON) -m scripts.bench_peers "$${args[@]}"

clean: ## delete caches and logs of ended sessions, no runs
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .hypothesis
	scripts/sh/sessions.sh forget
