"""The examples of docs/testing.md are tests, and they pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCOPE = "asyncio_default_fixture_loop_scope=function"


def test_the_examples_of_the_documentation_pass(tmp_path: Path, rowlock_server: str) -> None:
    text = (ROOT / "docs/testing.md").read_text()
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == text.count("```python")
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"),
            *("-o", "asyncio_mode=auto", "-o", SCOPE, "--rootdir", str(tmp_path), str(tmp_path)),
        ],
        cwd=tmp_path,
        env=os.environ | {"ROWLOCK_TEST_DATABASE_URL": rowlock_server},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{text.count('def test_')} passed" in done.stdout
