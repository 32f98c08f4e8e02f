"""Eight devices: the tests of on_eight_devices.py, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def test_on_eight_devices() -> None:
    """The number of devices is fixed when JAX starts, and the other tests want one."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "on_eight_devices.py"],
        cwd=TESTS, env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
