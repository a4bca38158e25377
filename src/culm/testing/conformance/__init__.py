"""The conformance suite: what makes a store a store. See `suite.py` for how to run it over a store of your own."""

from culm.testing.conformance import (
    batches,
    cancels,
    claims,
    delays,
    hints,
    joins,
    leases,
    letters,
    life,
    members,
    queues,
    readers,
    records,
    refusals,
    retention,
    scopes,
    wakes,
    workers,
)
from culm.testing.conformance.bench import Bench, Broken
from culm.testing.conformance.suite import EVERY_FEATURE, Case, Feature, cases

__all__ = ["EVERY_FEATURE", "Bench", "Broken", "Case", "Feature", "cases"]

# Importing a module puts its exercises into the suite.
_modules = (
    batches, cancels, claims, delays, hints, joins, leases, letters, life, members, queues, readers, records, refusals,
    retention, scopes, wakes, workers,
)  # fmt: skip
