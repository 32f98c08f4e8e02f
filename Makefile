# What is too slow, or depends too much on the day, for every commit. `.ci/run` is what must pass.

PYTHON ?= python3

.PHONY: canary
# The suite against the newest releases of everything, pre-releases of jax included: run it on a
# schedule, to hear of an upgrade that breaks the library before users do.
canary:
	$(PYTHON) -m venv --clear .venv-canary
	.venv-canary/bin/pip install --quiet --upgrade --pre jax jaxlib
	.venv-canary/bin/pip install --quiet --upgrade --upgrade-strategy eager ".[tests]"
	.venv-canary/bin/pip list
	.venv-canary/bin/pytest -n 2 -W default
