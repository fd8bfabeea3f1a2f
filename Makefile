# The commands of this project. CI calls the same targets; docs/development.md says what each is for.
SHELL := /bin/bash
VENV := $(shell lab/setup.sh --venv)
export PATH := $(CURDIR)/bin:$(VENV)/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PYTHONDONTWRITEBYTECODE := 1
MAKEFLAGS += --no-print-directory
# The lab needs root for namespaces, mounts and file owners. sudo would set its own PATH, so `env` sets ours.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=HOME,ANSIBLE_CONFIG,PYTHONDONTWRITEBYTECODE,GPU_PREBAKE_CACHE,XDG_CACHE_HOME)
LAB := $(AS_ROOT) env "PATH=$(PATH)" python -m

PACKER_BUILDERS := amazon-ebs azure-arm googlecompute qemu
export CHECKPOINT_DISABLE := 1

.PHONY: setup locks check lint types unit docs test stream-lab stream-vm test-lab test-vm test-power test-all demo bench clean
setup:
	@lab/setup.sh

# Writes the versions and hashes that pip installs from requirements/*.in. It asks the package index.
locks: setup
	requirements/lock.sh

# Run this before each commit: lint, types, unit tests.
check: setup
	@$(MAKE) -j2 --output-sync lint types
	@$(MAKE) unit

# Writes what roles, modules and READMEs say about options, from plugins/module_utils/gpunode/options.py. `make lint` compares it.
docs: setup
	python -m tools.docs

lint:
	python -m tools.docs --check
	ruff format --check .
	ruff check .
	yamllint --strict .
	ansible-lint -q
	antsibull-changelog lint
	git ls-files -z '*.sh' .ci/run bin/gpu-prebake molecule/shared/inventory | xargs -0 shellcheck
	for folder in packer packer/image; do packer fmt -check $$folder || exit 1; done
	packer validate -var host=192.0.2.1 -var vars_file=/dummy.json packer/existing-machine.pkr.hcl
	for b in $(PACKER_BUILDERS); do packer validate -only=$$b.image -var-file=packer/dummy.pkrvars.hcl packer/image || exit 1; done

types:
	mypy plugins/module_utils/gpunode lab bench tools
	mypy src

unit:
	pytest tests/unit -n 2

# Bakes on a native node, among them those that are refused, fail or are killed.
test-lab: setup
	$(LAB) lab session -- pytest tests/lab --durations=5

# The core scenarios: real images and real kernels, in VMs.
test-vm: setup
	$(LAB) lab.scenarios $(SCENARIO)

# Power cuts in a VM during a layer's transactions: one while its files are put in place, two while they are removed. They are the same
# three in each run; SEED=… chooses others. `make test-all PART=power` chooses others in each run.
test-power: setup
	$(LAB) lab session -- pytest tests/power -s -k 'not twenty' --seed='$(or $(SEED),3506)'

# With root's tests in two streams, each on one of two cores, in one session: those on native nodes, and those in VMs. A line says whose it is.
test: check
	@$(LAB) lab session -- $(MAKE) -j2 stream-lab stream-vm

stream-lab stream-vm: setup
stream-lab:
	@set -o pipefail; PYTEST_ADDOPTS=-v $(MAKE) test-lab 2>&1 | sed -u 's/^/native | /'
stream-vm:
	@set -o pipefail; { $(MAKE) test-power && $(MAKE) test-vm; } 2>&1 | sed -u 's/^/vm     | /'

# All tests, in parts of at most 40 minutes: core (make test), nvidia (the real driver, the demo and its refusals), collection (the built
# collection), packer (the qemu builder), page (the demo's page in a browser), faults (every fault of the series of which the unit tests take
# a sample), scenarios (those in VMs that are not core: docs/scenarios.md), capture (captured bakes: kernels, faults, filesystems), grub
# (which kernel a boot loader boots), power (power cuts in VMs), compare (whole images), fuzz (odd inputs for
# every reader of what others wrote).
PART ?= core nvidia collection packer page faults scenarios capture grub power compare fuzz
test-all: $(addprefix test-part-,$(PART))

test-part-core: test

# Captured bakes on native nodes.
test-part-capture: setup
	$(LAB) lab session -- pytest tests/capture --durations=5

# A disk with GRUB, booted by the BIOS: checks that a bake is for the kernel that boots.
test-part-grub: setup
	$(LAB) lab session -- pytest tests/grub --durations=5

# Boots whole images in VMs and compares them, with the stand-in driver and with NVIDIA's. build/compare/report.txt lists what was compared.
test-part-compare: setup
	$(LAB) lab session -- pytest tests/compare --durations=5

# Packer's qemu builder, emulated: a user with sudo bakes, then the disk boots with a GPU.
test-part-packer: setup
	$(LAB) lab session -- pytest tests/packer --durations=5

# Like test-power, with more power cuts.
test-part-power: setup
	$(LAB) lab session -- pytest tests/power -s -k twenty --seed='$(SEED)'

test-part-nvidia: setup
	$(LAB) lab session -- pytest tests/nvidia --durations=5

test-part-faults: setup
	pytest tests/unit -m faults -n 2 --durations=5

# Odd inputs for every reader, GPU_PREBAKE_FUZZ_S seconds each; says how many. Finds go to tests/data/fuzz.
test-part-fuzz: setup
	rm -f build/fuzz/counts.txt
	pytest tests/fuzz -n 2; status=$$?; sort -k4 build/fuzz/counts.txt; exit $$status

# Builds the collection, installs it elsewhere and runs it from there; runs ansible-test sanity and Galaxy's importer on it.
test-part-collection: setup
	$(LAB) lab session -- pytest tests/collection --durations=5

# The demo's page in a browser; installs chromium.
test-part-page:
	@lab/setup.sh chromium
	pytest tests/page --durations=5

test-part-scenarios: setup
	$(LAB) lab.scenarios --part scenarios

# Bakes with Packer, boots three nodes and shows what each did.
demo: setup
	@$(LAB) lab.demo

# Measures what has a budget, and what it is compared with. BENCH=… runs only the named benchmarks of bench/__main__.py;
# AGAINST=FOLDER measures the look of another clone in turn with this one's.
bench: setup
	@$(LAB) bench $(BENCH) $(if $(AGAINST),--against '$(AGAINST)')

clean:
	$(LAB) lab clean
