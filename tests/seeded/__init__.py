"""Seeded bugs: stores that are wrong in one way each. Whoever claims to check stores must catch every one of them."""

from tests.seeded.catalogue import SEEDED

__all__ = ["SEEDED"]
