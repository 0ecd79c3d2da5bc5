"""Index a folder of files: one durable run for each of them.

    index_folder           lists the folder, page by page
      index_page           one for each page of the listing
        index_file         one for each file: hash it, count it, parse it, save one row

What it shows: steps, a transaction, child runs, keys that make a second run cheap, and failures
that stay with their file. `make demo` runs it, and kills a worker in the middle.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from io import BufferedReader
from typing import Any
from urllib.parse import quote, unquote

from psycopg import AsyncConnection

from rowlock import App, Child, Retry

app = App("index")

PAGE_FILES = 500  # children of one run: waking their parent replays its history
MOST_FAILURES = 100  # failures that a summary names; it counts them all
MOST_SOURCE_BYTES = 800_000  # ast holds the interpreter while it parses, and the lease waits
CHUNK_BYTES = 1 << 20

# One at a time: ast keeps the interpreter to itself anyway, and up to Python 3.11 two that parse
# at once mix up their depths ("SystemError: AST constructor recursion depth mismatch"). The
# traceback module parses too, without asking, so now and then it still takes another try.
parsing = threading.Lock()


@dataclass(frozen=True)
class File:
    path: str  # as text(…) writes it
    version: str  # another one when the file has changed


@dataclass(frozen=True)
class Content:
    size: int
    sha256: str


@dataclass(frozen=True)
class Count:
    lines: int
    words: int


@dataclass(frozen=True)
class Module:
    imports: list[str]
    definitions: list[str]


@dataclass(frozen=True)
class Failed:
    path: str
    error: str


@dataclass(frozen=True)
class Summary:
    files: int = 0
    failed: int = 0
    failures: list[Failed] = field(default_factory=list[Failed])  # the first of them

    @classmethod
    def total(cls, parts: Sequence[Summary]) -> Summary:
        failures = [failure for part in parts for failure in part.failures]
        return cls(
            sum(part.files for part in parts),
            sum(part.failed for part in parts),
            failures[:MOST_FAILURES],
        )


# --- workflows


@app.workflow
async def index_folder(folder: str, skip: list[str]) -> Summary:
    """Index every file below ``folder``, but for folders whose name is in ``skip``."""
    await create_table()
    pages: list[Child[Summary]] = []
    last = ""
    while files := await list_page.in_thread(folder, skip, last):
        pages.append(await app.start_child(index_page(files)))
        last = files[-1].path
    return Summary.total(await asyncio.gather(*(page.result() for page in pages)))


@app.workflow
async def index_page(files: list[File]) -> Summary:
    """Index some files; the key makes one version of a file one run, whoever asks for it."""
    runs = await asyncio.gather(
        *(app.start_child(index_file(file), key=key_of(file)) for file in files)
    )
    ends = await asyncio.gather(*(run.result() for run in runs), return_exceptions=True)
    failures = [
        Failed(file.path, f"{type(end).__name__}: {end}"[:300])
        for file, end in zip(files, ends, strict=True)
        if isinstance(end, Exception)
    ]
    return Summary(len(files), len(failures), failures[:MOST_FAILURES])


@app.workflow
async def index_file(file: File) -> None:
    """Index one file. Its content is read again by each step: only results are recorded."""
    content = await read_content.in_thread(file.path)
    count = await count_words.in_thread(file.path)
    module = await parse_module.in_thread(file.path) if file.path.endswith(".py") else None
    await save(file, content, count, module)


# --- steps


@app.step
def list_page(folder: str, skip: list[str], last: str) -> list[File]:
    """The next files below ``folder``, in order, behind the path ``last``."""
    executed("list_page")
    page: list[File] = []
    for path in walk(path_of(folder), set(skip), path_of(last)):
        page.append(File(text(path), version_of(path)))
        if len(page) == PAGE_FILES:
            break
    return page


@app.step
def read_content(path: str) -> Content:
    executed("read_content")
    with open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256")
        return Content(file.tell(), digest.hexdigest())


@app.step
def count_words(path: str) -> Count:
    """Lines and words of bytes: a text's encoding is not known, and not all files are text."""
    executed("count_words")
    newlines = words = 0
    end = b"\n"  # the last byte so far
    with open_file(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            newlines += chunk.count(b"\n")
            words += len(chunk.split()) - (not end.isspace() and not chunk[:1].isspace())
            end = chunk[-1:]
    return Count(newlines + (end != b"\n"), words)


@app.step(retry=Retry(attempts=5, first_delay=timedelta(milliseconds=10), retry_on=(SystemError,)))
def parse_module(path: str) -> Module:
    """What a Python file imports and defines. Raises whatever the parser raises."""
    executed("parse_module")
    with open_file(path) as file:
        source = file.read(MOST_SOURCE_BYTES + 1)
    if len(source) > MOST_SOURCE_BYTES:
        raise ValueError(f"{path} is longer than {MOST_SOURCE_BYTES} bytes and was not parsed")
    with parsing:
        tree = ast.parse(source, path)
    imports: set[str] = set()
    for node in statements(tree):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imports.add("." * node.level + (node.module or ""))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return Module(sorted(imports), [node.name for node in tree.body if isinstance(node, kinds)])


@app.transaction(retry=Retry(attempts=3))  # two that create it at once get in each other's way
async def create_table(connection: AsyncConnection[Any]) -> None:
    executed("create_table")
    await connection.execute("""
        create table if not exists indexed_file (
            path         text primary key,
            version      text not null,
            size         bigint not null,
            sha256       text not null,
            lines        bigint not null,
            words        bigint not null,
            imports      text[],
            definitions  text[],
            writes       integer not null default 1)""")


@app.transaction
async def save(
    connection: AsyncConnection[Any],
    file: File,
    content: Content,
    count: Count,
    module: Module | None,
) -> None:
    """Write the file's row. ``writes`` would show if that ever happened twice for one version."""
    executed("save")
    await connection.execute(
        """
        insert into indexed_file as old
               (path, version, size, sha256, lines, words, imports, definitions)
        values (%s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (path) do update
           set version = excluded.version, size = excluded.size, sha256 = excluded.sha256,
               lines = excluded.lines, words = excluded.words,
               imports = excluded.imports, definitions = excluded.definitions,
               writes = case when old.version = excluded.version then old.writes + 1 else 1 end""",
        [
            file.path,
            file.version,
            content.size,
            content.sha256,
            count.lines,
            count.words,
            module.imports if module else None,
            module.definitions if module else None,
        ],
    )


# --- files and their names


def text(path: str) -> str:
    """A path as text that JSON and PostgreSQL can keep; ``path_of`` gives the path back.

    On most systems a file's name is bytes of any kind. What is no UTF-8, and the percent sign
    itself, is written as in a URL: ``b"caf\\xe9"`` is ``caf%E9``.
    """
    readable = os.fsencode(path).decode("utf-8", "surrogateescape")
    return re.sub("[%\udc80-\udcff]", lambda m: quote(m[0], errors="surrogateescape"), readable)


def path_of(written: str) -> str:
    """The path that ``text`` wrote."""
    readable = unquote(written, errors="surrogateescape")
    return os.fsdecode(readable.encode("utf-8", "surrogateescape"))


def version_of(path: str) -> str:
    """Changes with the file: whoever writes to it, or to its permissions, sets its ctime."""
    for look in (os.stat, os.lstat):  # the second for a link that leads nowhere
        try:
            facts = look(path)
        except OSError:
            continue
        return f"{facts.st_size}-{facts.st_ctime_ns}"
    return "gone"


def key_of(file: File) -> str:
    return "file " + hashlib.sha256(f"{file.version} {file.path}".encode()).hexdigest()


def walk(folder: str, skip: set[str], last: str = "") -> Iterator[str]:
    """Every path below ``folder`` that is no folder, in order, behind ``last``.

    Links to folders are left out, so that there are no loops. A folder that can't be listed is
    given as if it were a file: reading it will say why.
    """
    behind = last.split("/")
    waiting = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
    while waiting:
        entry = waiting.pop()
        place = entry.path.split("/")
        if entry.is_dir(follow_symlinks=False):
            if entry.name in skip or place < behind[: len(place)]:
                continue
            try:
                inside = sorted(os.scandir(entry.path), key=lambda entry: entry.name, reverse=True)
            except OSError:
                inside = []
                if place > behind:
                    yield entry.path
            waiting += inside
        elif place > behind and not os.path.isdir(entry.path):
            yield entry.path


def open_file(written: str) -> BufferedReader:
    """Open a file for reading. Raises for all that is no regular file: a FIFO would block."""
    path = path_of(written)
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        os.scandir(path).close()  # says why it could not be listed
    if not stat.S_ISREG(mode):
        raise OSError(f"not a regular file: {written} ({stat.filemode(mode)})")
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


# --- Python


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Every statement, at any depth. ast.walk visits expressions too: ten times as long."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, block, [])


# --- only for the demo


def executed(step: str) -> None:
    """Note that a step is executed, outside of anything durable: the demo counts these lines."""
    folder = os.environ.get("INDEX_FILES_LOG")
    if folder:
        with open(f"{folder}/{os.getpid()}", "a") as log:
            log.write(f"{step}\n")
