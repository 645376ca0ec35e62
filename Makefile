# SPDX-License-Identifier: Apache-2.0
# Each target sets up what it needs (scripts/setup.sh): nothing to do by hand before `make demo` or `make test`.

ROOM ?=
INPUT ?=
TOPIC ?=
DEMO_ARGS ?=
export PYTHON

.PHONY: help setup demo test soak clean
.DEFAULT_GOAL := help

help:
	@echo "make demo              play an unseen room to the node over ROS 2, ask it, draw what it saw (demo_out/)"
	@echo "make demo ROOM=seed    the same in another room"
	@echo "make demo INPUT=path   the same with your video, folder of images or rosbag2"
	@echo "          TOPIC=/name  which camera of a rosbag2 that holds several"
	@echo "make test              format, lint, types, package.xml, all tests"
	@echo "make soak              ten minutes of camera and questions: memory must not grow (log/soak.json)"
	@echo "make setup             only the environment; then: . scripts/env.sh"
	@echo "make clean             remove everything these have made"
	@echo "PYTHON=python3.12      with any of them: the interpreter to use (3.10 to 3.13)"

setup:
	@scripts/setup.sh

demo: setup
	@. scripts/env.sh && exec vidllm demo $(if $(ROOM),--room '$(ROOM)') $(if $(INPUT),--input '$(INPUT)') $(if $(TOPIC),--topic '$(TOPIC)') $(DEMO_ARGS)

test: setup
	@scripts/check.sh

soak: setup
	@. scripts/env.sh && exec python scripts/soak.py $(SOAK_ARGS)

clean:
	rm -rf .venv build install log demo_out .cache .mypy_cache .ruff_cache .pytest_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
