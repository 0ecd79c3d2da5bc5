"""Where in the source something stands, for errors that people have to act on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from rowlock.runtime.branches import RunLoop

_OURS = str(Path(__file__).parents[1])


def line_of(function: Callable[..., Any]) -> str | None:
    """``file:line`` where a function is defined; None for one without source, such as a builtin."""
    code = getattr(function, "__code__", None)
    return None if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def line_of_caller() -> str | None:
    """``file:line`` of the run's code that asks for something now.

    None when it is not on this stack: a sync workflow asks from a thread of its own.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not RunLoop.drive.__code__:
        if not frame.f_code.co_filename.startswith(_OURS):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return None
