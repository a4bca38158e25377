"""stub"""
from __future__ import annotations
from typing import Any
class Violation(AssertionError):
    notes: list[Any] = []
def check(plan: Any, notes: Any, tables: Any, *, left: Any) -> None: ...
