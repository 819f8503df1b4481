# The few commands that a developer needs. `make` alone lists them.
#
#   KEEP=1     make demo, make e2e: leave the lab standing and say how to look around in it
#   ONLY=…     make e2e: only the scenarios with this in their names
#   FLOCK_E2E_IMAGE=host  make e2e: an image of the programs that this machine has built,
#              which takes seconds, instead of one from the Dockerfile
#   SAMPLE=k/n make mutants: every n-th change, beginning with the k-th; default 0/3
#   SECONDS=… JOBS=… TARGET=…  make fuzz: for how long each target runs, how many side by side,
#              and only one of them; INPUT=… instead: TARGET once, with this file
#   PROFILE=…  the cargo profile of everything but the plugin, default dev: a cold
#              build takes a third of the time of a release build, and what is
#              measured (make bench) is built with the release profile
#   PAIRS=…    make churn: how many pods come and go, default 20000
#   ROUNDS=…   make readiness: how many changes are measured, default 50
#   KILLS=…    make storm: how many times the agent is killed, default 1000
#   SEED=…     make storm: another storm, default 1
#   IMAGE=…    make image: the image's name, default flock:dev
#   IMAGE_BUILD=…  make image: what builds it, with its options; default buildah, else
#              docker. Inside a container: IMAGE_BUILD="buildah --storage-driver=vfs build
#              --isolation=chroot"
#   RUST_IMAGE=… BASE_IMAGE=…  make image: other images to start from

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PROFILE ?= dev
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
PROFILE_DIR = $(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

# The programs that demo, tests and benchmark run; read by the examples package.
export FLOCK_PLUGIN = $(TARGET_DIR)/$(HOST)/plugin/flock
export FLOCK_AGENT = $(TARGET_DIR)/$(PROFILE_DIR)/flock-agent
export FLOCK_INSTALLER = $(TARGET_DIR)/$(PROFILE_DIR)/flock-installer

.PHONY: help
help: ## list these commands
	@sed -n 's/^\([a-z0-9-]*\):.* ## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "make %-8s %s\n", $$1, $$2}'

.PHONY: demo
demo: ## show the main job on this machine: two nodes, a router, pods (KEEP=1 leaves it standing)
	@.ci/install demo
	@$(MAKE) build
	@cargo build --quiet --profile $(PROFILE) -p flock-examples --example demo
	@$(TARGET_DIR)/$(PROFILE_DIR)/examples/demo $(if $(filter-out 0,$(KEEP)),--keep)

.PHONY: test
test: ## run everything that is tested
	@.ci/install test
	@$(MAKE) build
	@cargo build --profile $(PROFILE) -p flock-examples -p flock-bin --examples
	@.ci/test --cargo-profile $(PROFILE)

.PHONY: lint
lint: ## formatting, clippy, rustdoc, licences and advisories, the dependency fence
	@.ci/install lint
	@.ci/lint

.PHONY: bench
bench: ## measure ADD and DEL against other plugins (release build)
	@.ci/install test
	@$(MAKE) plugin floor agent PROFILE=release
	@FLOCK_AGENT=$(TARGET_DIR)/release/flock-agent FLOCK_FLOOR=$(TARGET_DIR)/$(HOST)/plugin/floor \
		cargo bench --quiet -p flock-examples --bench attachments

PAIRS ?= 20000

.PHONY: churn
churn: ## let 20,000 pods come and go, have 1,000 at once, fill a /24, and see that nothing grows (PAIRS=)
	@.ci/install test
	@$(MAKE) build
	@cargo build --quiet --profile $(PROFILE) -p flock-examples --example churn
	@$(TARGET_DIR)/$(PROFILE_DIR)/examples/churn $(PAIRS)

ROUNDS ?= 50

.PHONY: readiness
readiness: ## how soon the network follows a pod that becomes unready, with 250 pods on the node (ROUNDS=50)
	@.ci/install test
	@$(MAKE) build
	@cargo build --quiet --profile $(PROFILE) -p flock-examples --example readiness
	@$(TARGET_DIR)/$(PROFILE_DIR)/examples/readiness $(ROUNDS)

KILLS ?= 1000
SEED ?= 1

.PHONY: storm
storm: ## kill the agent again and again under 32 callers, and see that nothing is lost (KILLS=1000)
	@.ci/install test
	@$(MAKE) build
	@cargo build --quiet --profile $(PROFILE) -p flock-bin --example mortal
	@cargo build --quiet --profile $(PROFILE) -p flock-examples --example storm
	@$(TARGET_DIR)/$(PROFILE_DIR)/examples/storm --kills $(KILLS) --seed $(SEED)

IMAGE ?= flock:dev
IMAGE_BUILD ?= $(if $(shell command -v buildah),buildah build --layers,docker build)

.PHONY: image
image: ## build the container image, with buildah or docker (IMAGE=name)
	@$(IMAGE_BUILD) --tag $(IMAGE) \
		$(if $(RUST_IMAGE),--build-arg RUST_IMAGE=$(RUST_IMAGE)) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
		--build-arg VERSION=$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml) \
		--build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null || echo unknown) .

# What is built or fetched once is kept outside the target directory, see .ci/kubernetes.
.PHONY: e2e
e2e: ## prove it on a real Kubernetes cluster on this machine, as root (ONLY=scenario, KEEP=1)
	@.ci/install e2e
	@$(if $(filter host,$(FLOCK_E2E_IMAGE)),$(MAKE) build installer)
	@.ci/image $(TARGET_DIR)/e2e/flock.tar $(FLOCK_E2E_IMAGE)
	@cargo build --quiet --profile $(PROFILE) -p flock-examples --example e2e
	@kubernetes=$$(.ci/kubernetes); \
		$(TARGET_DIR)/$(PROFILE_DIR)/examples/e2e --kubernetes "$$kubernetes" \
		--image $(TARGET_DIR)/e2e/flock.tar --deploy deploy --logs $(TARGET_DIR)/e2e/logs \
		$(if $(ONLY),--only $(ONLY)) $(if $(filter-out 0,$(KEEP)),--keep)

# A target that fails leaves the input behind and says how to try it again.
SECONDS ?= 30
JOBS ?= 2
.PHONY: fuzz
fuzz: ## look for input that breaks a promise (SECONDS=30 for each, JOBS=2 side by side, TARGET=one)
	@.ci/install fuzz
	@.ci/fuzz $(if $(INPUT),again $(TARGET) $(INPUT),run $(SECONDS) $(JOBS) $(TARGET))

# Commits the finds of long runs: the fewest that reach all that is reached.
.PHONY: corpus
corpus: ## write fuzz/corpus anew from what make fuzz has found (TARGET=one)
	@.ci/install fuzz
	@.ci/fuzz minimise $(TARGET)

.PHONY: crd
crd: ## write deploy/base/crd.yaml anew, after a change of the NodeConfig's types
	@mkdir -p $(TARGET_DIR)
	@cargo run --quiet -p flock-k8s --example crd >$(TARGET_DIR)/crd.yaml
	@mv $(TARGET_DIR)/crd.yaml deploy/base/crd.yaml

# Not part of what every change must pass: it takes an hour.
.PHONY: mutants
mutants: ## change the core in one place at a time, to see whether a test notices (SAMPLE=k/n)
	@.ci/install mutants
	@.ci/mutants $(TARGET_DIR)/mutants

.PHONY: build
build: plugin agent ## build the plugin (static) and the agent

.PHONY: plugin
plugin:
	@cargo rustc --quiet -p flock-bin --no-default-features --bin flock --profile plugin --target $(HOST) -- -C target-feature=+crt-static

# The least that a plugin could do: what the benchmark compares with.
.PHONY: floor
floor:
	@cargo rustc --quiet -p flock-examples --bin floor --profile plugin --target $(HOST) -- -C target-feature=+crt-static

.PHONY: agent
agent:
	@cargo build --profile $(PROFILE) -p flock-bin --bin flock-agent

.PHONY: installer
installer:
	@cargo build --profile $(PROFILE) -p flock-bin --bin flock-installer
