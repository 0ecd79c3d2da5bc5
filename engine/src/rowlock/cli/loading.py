"""Find the App that a command line names.

    shop:app             the object ``app`` of module ``shop``
    shop                 the only App in module ``shop``
    examples/shop.py     the only App in that file; ``examples/shop.py:app`` by name

Modules are looked for in the current folder first. A file is imported under the name that others
would import it by, the packages around it included: the names of its exceptions stand in the
database.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType, TracebackType
from typing import NamedTuple

from rowlock.app import App
from rowlock.errors import ConfigurationError

FORMS = "Write MODULE:APP, such as shop:app, or a file, such as examples/shop.py or shop.py:app."
MOST_TRACEBACK_CHARS = 16_000


class Target(NamedTuple):
    """Where a module is: its name, the folder to import it from, its file if that was named."""

    module: str
    folder: Path
    file: Path | None
    attribute: str


def parse(text: str) -> Target:
    """Take MODULE[:APP] or FILE[:APP] apart; a file must exist. Imports nothing."""
    name, _, attribute = text.partition(":")
    if not name or (":" in text and not attribute):
        raise ConfigurationError(f"{text!r} names no app. {FORMS}")
    if not name.endswith(".py") and "/" not in name:
        return Target(name, Path.cwd(), None, attribute)
    file = Path(name).resolve()
    if not file.is_file():
        raise ConfigurationError(f"there is no file {name} in {Path.cwd()}. {FORMS}")
    if file.suffix != ".py":
        raise ConfigurationError(f"{name} is not a Python file. {FORMS}")
    folder, parts = file.parent, [file.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return Target(".".join(parts), folder, file, attribute)


def load(text: str) -> App:
    """Import the module and give its App. Raises ConfigurationError, with the user's traceback."""
    target = parse(text)
    for folder in (target.folder, Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    module = _import(target)
    if target.attribute:
        return _named(module, target.attribute)
    found = {id(value): name for name, value in vars(module).items() if isinstance(value, App)}
    if len(found) == 1:
        return _named(module, *found.values())
    if not found:
        raise ConfigurationError(
            f"{_called(module)} holds no App. Write `app = rowlock.App(…)` in it, or name the "
            "module that does."
        )
    raise ConfigurationError(
        f"{_called(module)} holds several apps: {', '.join(sorted(found.values()))}. Say which, "
        f"such as {text}:{min(found.values())}."
    )


def _import(target: Target) -> ModuleType:
    try:
        module = importlib.import_module(target.module)
    except ModuleNotFoundError as error:
        wanted = target.module.split(".")
        if error.name in [".".join(wanted[:n]) for n in range(1, len(wanted) + 1)]:
            raise ConfigurationError(
                f"there is no module {error.name}, neither in {Path.cwd()} nor installed. {FORMS}"
            ) from None
        raise ConfigurationError(_failed(target, error)) from None
    except (Exception, SystemExit) as error:
        raise ConfigurationError(_failed(target, error)) from None
    where = getattr(module, "__file__", None)
    if target.file is not None and (where is None or Path(where).resolve() != target.file):
        raise ConfigurationError(
            f"{target.file} can't be imported: another module of the name {target.module} "
            f"({where or 'built in'}) comes first. Give the file another name."
        )
    return module


def _named(module: ModuleType, attribute: str) -> App:
    try:
        value = getattr(module, attribute)
    except AttributeError:
        known = sorted(name for name, value in vars(module).items() if isinstance(value, App))
        hint = f"Its apps: {', '.join(known)}." if known else "It holds no App at all."
        raise ConfigurationError(f"{_called(module)} has no {attribute}. {hint}") from None
    if not isinstance(value, App):
        raise ConfigurationError(
            f"{attribute} in {_called(module)} is a {type(value).__name__}, not a rowlock.App"
        )
    return value


def _called(module: ModuleType) -> str:
    return f"module {module.__name__} ({getattr(module, '__file__', None) or 'built in'})"


def _failed(target: Target, error: BaseException) -> str:
    """The traceback from where the user's code begins: our frames and importlib's say nothing."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    text = "".join(lines).strip()
    if len(text) > MOST_TRACEBACK_CHARS:
        text = f"…{text[-MOST_TRACEBACK_CHARS:]}"
    return f"importing {target.file or target.module} failed:\n{text}"


def _is_ours(file: str) -> bool:
    return file == __file__ or file.startswith("<frozen importlib") or "/importlib/" in file
