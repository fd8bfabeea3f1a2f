# The commands of this project; CI calls the same names. README.md says what each is for.
SHELL := /bin/bash
VENV := $(shell lab/setup.sh --venv)
export PATH := $(VENV)/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: setup check lint types unit test
setup:
	@lab/setup.sh

check: setup lint types unit

lint:
	ruff format --check .
	ruff check .
	yamllint --strict .
	ansible-lint -q
	antsibull-changelog lint
	git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck

types:
	mypy plugins/module_utils/gpunode

unit:
	pytest tests/unit

test: check
