"""What a check of a store found: one line for each thing, with what to do about it."""

from __future__ import annotations

import sys
import time
from typing import Literal

from pydantic import BaseModel, ConfigDict

_PATIENCE = 2.0
_PAUSE = 0.2


class Finding(BaseModel):
    """Something that is not as it should be."""

    model_config = ConfigDict(frozen=True)

    severity: Literal["damage", "note"]
    """``damage``: bytes are lost or wrong. ``note``: nothing is lost, but it should not be there."""
    key: str
    problem: str
    action: str


class Report(BaseModel):
    """What was checked at a store, and what was found."""

    uri: str
    checked: dict[str, int] = {}
    """How many of each kind of thing."""
    findings: list[Finding] = []
    seconds: float = 0.0

    def damage(self, key: str, problem: str, action: str) -> None:
        """Note that something is damaged."""
        self.findings.append(Finding(severity="damage", key=key, problem=problem, action=action))

    def note(self, key: str, problem: str, action: str) -> None:
        """Note what does no harm."""
        self.findings.append(Finding(severity="note", key=key, problem=problem, action=action))

    def count(self, kind: str, number: int = 1) -> None:
        """Count what was checked."""
        self.checked[kind] = self.checked.get(kind, 0) + number

    @property
    def damaged(self) -> int:
        """How many things are damaged."""
        return sum(finding.severity == "damage" for finding in self.findings)

    def in_words(self) -> str:
        """Return the report for people: what is damaged first.

        Examples
        --------
        >>> report = Report(uri="file:///state", checked={"entries": 3})
        >>> report.note("models/clock", "is left over", "delete it")
        >>> print(report.in_words())
        note    models/clock  is left over: delete it
        file:///state: 3 entries checked in 0.0 s; nothing is damaged, 1 note
        """
        ordered = sorted(self.findings, key=lambda finding: finding.severity)
        width = max((len(finding.key) for finding in ordered), default=0)
        lines = [f"{line.severity:6}  {line.key:{width}}  {line.problem}: {line.action}" for line in ordered]
        what = ", ".join(f"{number:,} {kind}" for kind, number in self.checked.items())
        notes = len(self.findings) - self.damaged
        verdict = f"{self.damaged:,} damaged" if self.damaged else "nothing is damaged"
        more = f", {notes:,} {'note' if notes == 1 else 'notes'}" if notes else ""
        return "\n".join([*lines, f"{self.uri}: {what} checked in {self.seconds:.1f} s; {verdict}{more}"])


class Progress:
    """Says on a terminal how far a check is, when it takes more than two seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PATIENCE
        self._shown = False

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say so, unless it was said just before."""
        if sys.stderr.isatty() and time.monotonic() >= self._next:
            print(f"\r\x1b[K{what}: {done:,} of {total:,}", end="", file=sys.stderr, flush=True)
            self._next, self._shown = time.monotonic() + _PAUSE, True

    def close(self) -> None:
        """Take the line away."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
