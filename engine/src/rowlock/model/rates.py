"""How often runs of a queue may begin, as people write it: ``100/min``, ``5/s``, ``20/30s``.

Pure. The same words are read by the database (functions/002_rates.sql), which counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rowlock.errors import ConfigurationError

_FORM = re.compile(r"([1-9]\d{0,8})/([1-9]\d{0,6})?(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
LONGEST_S = 366 * 86400


@dataclass(frozen=True, slots=True)
class Rate:
    """At most so many first claims in any period, wherever it begins.

    ``text``: a number, a slash and a period in s, min, h or d: ``100/min``, ``20/30s``.
    ``smooth``: evenly spread, at least period / number between two. ``burst``: up to so many at
    once after a quiet time, and at the rate from then on; a period may hold that many more.
    Raises ConfigurationError.
    """

    text: str
    smooth: bool = False
    burst: int | None = None

    def __post_init__(self) -> None:
        form = _FORM.fullmatch(self.text) if isinstance(self.text, str) else None
        if form is None or int(form[2] or 1) * _SECONDS[form[3]] > LONGEST_S:
            raise ConfigurationError(
                f"rate {self.text!r}: write a number, a slash and a period, such as 100/min, 5/s, "
                "1000/2h or 20/30s; at most 999999999, in up to 366 days"
            )
        if self.burst is not None and (
            self.smooth or type(self.burst) is not int or not 1 <= self.burst < 10**9
        ):
            raise ConfigurationError(
                f"rate {self.text}: burst is {self.burst!r}, but must be an int from 1 to "
                "999999999, without smooth"
            )

    def __str__(self) -> str:
        if self.smooth:
            return f"{self.text} smooth"
        return self.text if self.burst is None else f"{self.text} burst {self.burst}"
