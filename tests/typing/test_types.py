"""mypy reads the type tests: what `accepted.py` holds must pass, what `refused.py` holds must not: its every ignore must be needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def check(*paths: Path) -> tuple[str, int]:
    report, errors, status = api.run(["--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary", *map(str, paths)])
    return report + errors, status


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_right_calls_have_the_right_types_and_wrong_calls_are_refused() -> None:
    report, status = check(HERE / "accepted.py", HERE / "refused.py")
    assert (report, status) == ("", 0)


def test_a_wrong_call_whose_ignore_is_taken_away_fails_the_check(tmp_path: Path) -> None:
    """Take away all at once: every line that had an ignore is now an error, with the code that the ignore named."""
    lines = (HERE / "refused.py").read_text(encoding="utf-8").splitlines()
    wanted = {n: set(found[1].split(", ")) for n, line in enumerate(lines, 1) if (found := re.search(r"# type: ignore\[(.*?)\]", line))}
    assert len(wanted) > 30
    bare = tmp_path / "bare.py"
    bare.write_text("\n".join(line.partition("  # type:")[0] for line in lines) + "\n", encoding="utf-8")
    report, status = check(bare)
    got: dict[int, set[str]] = {}
    for n, code in re.findall(r"bare\.py:(\d+): error: .*\[([\w-]+)\]$", report, re.MULTILINE):
        got.setdefault(int(n), set()).add(code)
    assert status == 1
    assert got == wanted


def test_an_accepted_call_that_is_marked_as_wrong_fails_the_check(tmp_path: Path) -> None:
    marked = tmp_path / "marked.py"
    marked.write_text(
        "from culm import App\n\napp = App()\n\n\n@app.task\ndef add(a: int) -> int:\n    return a\n\n\n"
        "add.bind(1)  # type: ignore[arg-type]\n",
        encoding="utf-8",
    )
    report, status = check(marked)
    assert status == 1
    assert '11: error: Unused "type: ignore" comment' in report


def test_a_result_of_another_type_than_asserted_fails_the_check(tmp_path: Path) -> None:
    text = (HERE / "accepted.py").read_text(encoding="utf-8")
    assert "Handle[Receipt])" in text
    wrong = tmp_path / "wrong.py"
    wrong.write_text(text.replace("Handle[Receipt])", "Handle[int])"), encoding="utf-8")
    report, status = check(wrong)
    assert status == 1
    assert report.count("[assert-type]") == text.count("Handle[Receipt])")
