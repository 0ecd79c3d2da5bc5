"""The Python and the SQL in a page of the docs, as code that a test can run.

Blocks of one page share their names, as if they stood in one file. A block that begins with
``# not run`` is only compiled. Line numbers in a traceback are those of the page.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
NOT_RUN = "# not run"
_BLOCK = r"^```{}\n(.*?)^```"
_STATEMENT = re.compile(r"((?:[^;$]|\$\$.*?\$\$)+);", re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One block: where it stands, and what it says."""

    page: Path
    line: int
    text: str

    @property
    def runs(self) -> bool:
        """Whether it is meant to be executed."""
        return not self.text.startswith(NOT_RUN)

    def compiled(self) -> CodeType:
        """Its code; ``await`` may stand at the top level."""
        text = "\n" * (self.line - 1) + self.text
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code: CodeType = compile(text, str(self.page), "exec", flags=flags, dont_inherit=True)
        return code

    def statements(self) -> list[str]:
        """Of a block of SQL. A semicolon ends one, but within ``$$``."""
        return [found[1].strip() for found in _STATEMENT.finditer(self.text)]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def examples_of(page: str, language: str = "python") -> list[Example]:
    """The blocks of ``docs/<page>`` in their order."""
    path = DOCS / page
    return list(_found(path, path.read_text(), language))


def _found(path: Path, text: str, language: str) -> Iterator[Example]:
    for block in re.finditer(_BLOCK.format(language), text, re.DOTALL | re.MULTILINE):
        yield Example(path, text.count("\n", 0, block.start(1)) + 1, block[1])


async def run(examples: list[Example], module: ModuleType, **given: Any) -> None:
    """Execute examples one after the other in ``module``; ``given``: names they may use.

    The module should be in ``sys.modules``, where annotations of classes are looked up.
    """
    vars(module).update(given)
    for example in examples:
        code = example.compiled()
        if example.runs:
            result = eval(code, vars(module))
            if code.co_flags & inspect.CO_COROUTINE:
                await result
