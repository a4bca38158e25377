"""`python -m culm` is `culm`: workers' processes are started so, by the same interpreter."""

from culm.cli.main import run

run()
