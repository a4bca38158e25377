"""culm's command line in a process that adopts orphans, as the first of a container does."""

import ctypes

from culm.cli.main import run

PR_SET_CHILD_SUBREAPER = 36

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    run()
