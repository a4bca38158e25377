"""How long the random tests run: CULM_TESTS=full for the whole of it, else a few dozen histories, the same ones every time."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured and want said: `record_property("said", ...)`."""
    for report in terminalreporter.getreports("passed"):
        for name, sentence in report.user_properties:
            if name == "said":
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {sentence}")


pytest_plugins = ["tests.hanging"]
pytest.register_assert_rewrite("tests.conformance.twins")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what a shell starts in its background ignores it, and so would all that tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "check", max_examples=30, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "full", max_examples=300, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("full" if os.environ.get("CULM_TESTS") == "full" else "check")
