"""The same tasks, in a module that hangs while it is imported, for as long as a file is there: everywhere, or apart only."""

import os
import sys
import time
from pathlib import Path

from tests.supervision.poison import app as app

HERE, APART = os.environ.get("HANGS", ""), os.environ.get("HANGS_APART", "")


def hang() -> None:
    while Path(HERE).is_file() or (Path(APART).is_file() and "--concurrency=1" in sys.argv):
        time.sleep(0.01)


hang()
