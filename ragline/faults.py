"""Named fault points: where a test may kill a process, to prove that what follows heals it.

Off unless the setting `RAGLINE_FAULT` names one (`name`, or `name:count` for its count-th passing).
"""

from __future__ import annotations

import os
import signal


class _Armed:
    name: str | None = None
    left: int = 0


def arm(setting: str | None) -> None:
    """Arm the fault point that a test named; None disarms."""
    name, _, count = (setting or "").partition(":")
    _Armed.name = name or None
    _Armed.left = int(count or 1)


def fault_point(name: str) -> None:
    """Die here by SIGKILL when a test has armed this name."""
    if name != _Armed.name:
        return
    _Armed.left -= 1
    if _Armed.left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
