"""The demo as `make demo` runs it: files of all kinds, a killed worker, a proof that holds."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from rowlock.embedded import Server

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"
HEAVY_FILES = 12  # slow to parse, so that there is a half-way to kill a worker at


def start_demo(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, DEMO, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_demo(*arguments: str | Path) -> tuple[int, str]:
    """The exit code, and what was printed."""
    demo = start_demo(*arguments)
    try:
        output, _ = demo.communicate(timeout=120)
    except BaseException:
        demo.terminate()
        raise
    print(output)  # shown when the test fails
    return demo.returncode, output


def number(pattern: str, output: str) -> int:
    found = re.search(pattern, output)
    assert found, f"{pattern} is not in the output"
    return int(found[1].replace(",", ""))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with everything that a folder can hold; 9 of its entries can't be indexed."""
    folder = tmp_path / "files"
    deep = folder.joinpath(*["deep"] * 60)
    deep.mkdir(parents=True)
    for number in range(33):
        (folder / f"good{number}.py").write_text(
            f"import os\nif True:\n    from . import a{number}\n\ndef function():\n    import re\n"
        )
    for number in range(HEAVY_FILES):
        (folder / f"heavy{number}.py").write_text(f"x = f(1, a=[2, 3]) + {number}\n" * 4000)
    (folder / "latin.py").write_bytes(b"# coding: latin-1\nx = 'caf\xe9'\n")
    (folder / "empty").write_bytes(b"")
    (folder / "empty.py").write_bytes(b"")
    (folder / "binary").write_bytes(bytes(range(256)) * 7)
    (folder / "large").write_bytes(b"some words \n" * 262_144)  # words cross the chunks' borders
    (folder / "latin text.txt").write_bytes("Größe und Maß\n".encode("latin-1"))
    (folder / "100% unicode \u4e2d\u6587.txt").write_text("no newline at the end")
    (folder / "line\nbreak \x1b[31m.txt").write_text("x")
    (deep / "deepest.txt").write_text("found")
    (folder / "link to file").symlink_to("good1.py")
    (folder / "link to folder").symlink_to(folder)
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9 \xff.txt")).write_text("bytes")

    (folder / "syntax.py").write_text("def (:\n")
    (folder / "nul.py").write_bytes(b"x = 1\0\n")
    (folder / "encoding.py").write_bytes(b"x = '\xe9'\n")
    (folder / "unknown coding.py").write_text("# coding: klingon\n")
    (folder / "nested.py").write_text("x = " + "-" * 50_000 + "1\n")
    os.mkfifo(folder / "fifo")
    os.mkfifo(folder / "fifo.py")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    return folder


INDEXED = 33 + HEAVY_FILES + 11
FAILED = {
    "syntax.py": "SyntaxError",
    "nul.py": "SyntaxError|ValueError",  # the latter up to Python 3.11.3
    "encoding.py": "SyntaxError",
    "unknown coding.py": "SyntaxError",
    "nested.py": "RecursionError|MemoryError|SyntaxError",
    "fifo": "OSError: not a regular file",
    "fifo.py": "OSError: not a regular file",
    "dangling": "FileNotFoundError",
    "loop": "OSError",
}


def test_the_demo_indexes_every_file_once_though_a_worker_is_killed(
    files: Path, server_folder: Path
) -> None:
    data = server_folder / "data"

    status, output = run_demo(files, "--data-dir", data)

    assert status == 0
    assert "killed worker process" in output
    assert number(r"([\d,]+) runs taken over", output) > 0
    assert number(r"files +([\d,]+):", output) == INDEXED + len(FAILED)
    assert number(r"([\d,]+) indexed,", output) == INDEXED
    recorded = number(r"([\d,]+) recorded", output)
    assert number(r"([\d,]+) executed", output) >= recorded > 3 * INDEXED
    for name, error in FAILED.items():
        assert re.search(f"^failed +{re.escape(name)}: ({error})", output, re.MULTILINE), name

    status, output = run_demo(files, "--data-dir", data)

    assert status == 0
    assert "nothing was to be done again" in output
    assert "0 executed, 0 recorded" in output

    (files / "good0.py").write_text("changed = True\n")
    (files / "fifo").unlink()
    (files / "fifo").write_text("a file now")
    status, output = run_demo(files, "--data-dir", data, "--no-kill")

    assert status == 0
    assert "2 of them now, the others before" in output
    assert number(r"([\d,]+) indexed,", output) == INDEXED + 1

    rows = indexed(data)
    prefix = os.path.realpath(files) + "/"
    assert len(rows) == INDEXED + 1
    assert {row[-1] for row in rows.values()} == {1}  # each written once
    assert rows[f"{prefix}good0.py"][1:5] == (1, 3, [], [])
    assert rows[f"{prefix}good1.py"][1:5] == (6, 12, [".", "os", "re"], ["function"])
    assert rows[f"{prefix}empty"][:5] == (0, 0, 0, None, None)
    assert rows[f"{prefix}large"][:3] == (262_144 * 12, 262_144, 2 * 262_144)
    assert rows[f"{prefix}caf%E9 %FF.txt"][:3] == (5, 1, 1)
    assert rows[f"{prefix}100%25 unicode \u4e2d\u6587.txt"][2] == 5
    assert rows[f"{prefix}{'deep/' * 60}deepest.txt"][2] == 1
    assert f"{prefix}link to folder" not in rows


def indexed(data: Path) -> dict[str, tuple[object, ...]]:
    """The application's table: size, lines, words, imports, definitions and writes by path."""
    with Server(data) as server, psycopg.connect(server.url()) as connection:
        rows = connection.execute(
            "select path, size, lines, words, imports, definitions, writes from indexed_file"
        ).fetchall()
    found = {row[0]: row[1:] for row in rows}
    assert len(found) == len(rows)
    return found


def test_an_interrupted_demo_goes_on_where_it_was(files: Path, server_folder: Path) -> None:
    data = server_folder / "data"
    more = 1000  # enough for it not to be done before the signal
    for nth in range(more):
        (files / f"more{nth}.txt").write_text("one line\n")
    demo = start_demo(files, "--data-dir", data, "--no-kill")
    assert demo.stdout is not None
    for line in demo.stdout:
        if "worker processes at work" in line:
            break
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=60)

    assert demo.returncode == 130, rest
    assert "the next `make demo` goes on from here" in rest
    assert not processes_of(data)

    status, output = run_demo(files, "--data-dir", data, "--no-kill")

    assert status == 0
    assert number(r"([\d,]+) indexed,", output) == INDEXED + more


def processes_of(data: Path) -> list[str]:
    """Command lines that name the folder, or the example's worker with its database."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(data) in command + environment:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is no folder"),
        ("a file", "is not a folder"),
        ("empty", "there are no files below"),
    ],
)
def test_a_folder_that_cannot_be_indexed_is_refused_in_clear_words(
    name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("text")
    (tmp_path / "empty").mkdir()

    status, output = run_demo(tmp_path / name, "--data-dir", tmp_path / "data")

    assert status == 2
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "data").exists()
