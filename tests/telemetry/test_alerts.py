"""The alert rules in docs/operations.md, and the table in docs/telemetry.md, name metrics and labels that a worker really shows."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from culm import Reject, TaskFailed
from tests.tasks.harness import Bench, run
from tests.telemetry.scrape import Samples, scrape

DOCS = Path(__file__).parents[2] / "docs"
SUFFIXES = ("", "_bucket", "_sum", "_count")


def rules() -> dict[str, str]:
    """Name -> expression, of the block of YAML that is to be copied."""
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(groups:.*?)```", text, re.DOTALL)
    names = re.findall(r"^ {6}- alert: (\w+)$", block, re.MULTILINE)
    expressions = re.findall(r"^ {8}expr: (.+)$", block, re.MULTILINE)
    assert len(names) == len(set(names)) == len(expressions) == block.count("- alert:")
    return dict(zip(names, expressions, strict=True))


@pytest.fixture(scope="module")
def shown() -> dict[str, set[str]]:
    """Metric -> its labels, as a worker shows them that has had successes and failures."""
    bench = Bench()

    @bench.app.task(name="work")
    async def work(fails: bool) -> None:
        if fails:
            raise Reject("no")

    async def scenario() -> Samples:
        async with bench.working(metrics="127.0.0.1:0") as worker:
            await (await work.enqueue(False)).result()
            with pytest.raises(TaskFailed):
                await (await work.enqueue(True)).result()
            await work.using(delay=60).enqueue(False)
            return await asyncio.to_thread(scrape, str(worker.metrics))

    found: dict[str, set[str]] = {}
    for sample in run(scenario()):
        name, _, labels = sample.partition("{")
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


@pytest.mark.parametrize("alert", rules())
def test_a_rule_names_metrics_and_labels_that_there_are(alert: str, shown: dict[str, set[str]]) -> None:
    expression = rules()[alert]
    metrics = re.findall(r"\bculm_\w+", expression)
    if not metrics:
        assert expression == 'up{job="culm"} == 0'  # Prometheus' own
        return
    assert set(metrics) <= shown.keys()
    for labels in re.findall(r"by \(([^)]*)\)", expression):
        for metric in metrics:
            assert set(re.split(r", *", labels)) <= shown[metric]
    for metric, label in re.findall(r"(culm_\w+)\{(\w+)", expression):
        assert label in shown[metric]
    assert expression.count("(") == expression.count(")")
    for metric in metrics:  # what only grows is looked at by its rate
        assert ("rate(" in expression or "increase(" in expression) == metric.endswith(("_total", "_count")) or "_queues_seen" in expression


def test_the_table_of_metrics_is_what_a_worker_shows(shown: dict[str, set[str]]) -> None:
    text = (DOCS / "telemetry.md").read_text(encoding="utf-8")
    listed = {
        name for line in text.splitlines() if line.startswith("| `culm_") for name in re.findall(r"`(culm_\w+)`", line.split(" | ")[0])
    }
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown if name.startswith("culm_")}
    assert listed == ours
