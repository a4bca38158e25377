"""The transition table as Markdown: one row an input, one column a state. `docs/architecture.md` shows it; a test compares."""

from __future__ import annotations

from typing import get_args

from culm.transitions import TABLE, At, Input, Transition

BEGIN, END = "<!-- transitions -->", "<!-- /transitions -->"

_DUE = {"now": "due now", "now + after": "due now + after", "lease end": "due at the lease's end", "as before the claim": "the old due"}


def render_table() -> str:
    """The whole table. A cell reads: answer: state, due (note); `-` is what cannot be asked."""
    states: tuple[At, ...] = get_args(At)
    known = {(t.given, t.at): t for t in TABLE}
    lines = ["| input | " + " | ".join(states) + " |", "|" + " --- |" * (len(states) + 1)]
    for given in get_args(Input):
        cells = [_cell(known.get((given, at))) for at in states]
        lines.append(f"| {given} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def rendered_block() -> str:
    """What stands in the document, between its markers."""
    return f"{BEGIN}\n\n{render_table()}\n{END}"


def _cell(t: Transition | None) -> str:
    if t is None:
        return "-"
    if t.to == t.at and t.due in ("same", "none"):
        what = t.answer
    else:
        due = _DUE.get(t.due, "")
        what = f"{t.answer}: {t.to}" + (f", {due}" if due else "")
    return what + (f" ({t.note})" if t.note else "")
