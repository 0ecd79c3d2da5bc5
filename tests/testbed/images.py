"""Images without a registry: a base from Debian's packages, and `docker build` upon it.

A Dockerfile that is to be built here names its bases by two arguments, so that a user's build and
ours differ in nothing else:

    ARG BASE=python:3.13-slim-trixie
    ARG BUILD_BASE=${BASE}
    FROM ${BUILD_BASE} AS build      # pip runs here
    FROM ${BASE}                     # COPY --from=build; nothing is fetched here

BUILD_BASE is BASE with this machine's certificates and pip settings, where builds may need them to
reach a package index. It is thrown away with its stage: neither gets into the finished image.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from testbed import debian
from testbed.command import CommandFailed, TestbedError, run
from testbed.dockerd import Dockerd
from testbed.paths import cache_folder, state_folder

SUITE = "trixie"  # Python 3.13
BASE = f"localhost/rowlock-testbed/base:{SUITE}-1"
BUILD_BASE = f"localhost/rowlock-testbed/build-base:{SUITE}-1"
PACKAGES = ("ca-certificates", "python3", "python3-venv", "python-is-python3")
MIRROR = "http://deb.debian.org/debian"

DEBOOTSTRAP_TIMEOUT_S = 1200.0
BUILD_TIMEOUT_S = 1800.0
COPY_TIMEOUT_S = 600.0

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "timeout", "no-index")


def base_image(dockerd: Dockerd) -> str:
    """The tag of a minimal Debian with Python; made on first use."""
    if not _exists(dockerd, BASE):
        dockerd.docker("import", _base_archive(), BASE, timeout_s=COPY_TIMEOUT_S)
    return BASE


def build_base_image(dockerd: Dockerd) -> str:
    """The tag of the same with what pip needs on this machine, for build stages only."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(_certificates(), folder / "certificates.crt")
        (folder / "pip.conf").write_text(_pip_settings())
        (folder / "Dockerfile").write_text(
            f"FROM {base_image(dockerd)}\n"
            f"COPY certificates.crt {CERTIFICATES}\n"
            "COPY pip.conf /etc/pip.conf\n"
        )
        _build(dockerd, folder, BUILD_BASE, folder / "Dockerfile", {})
    return BUILD_BASE


def build(
    dockerd: Dockerd,
    folder: Path,
    tag: str,
    *,
    dockerfile: Path | None = None,
    build_args: Mapping[str, str] | None = None,
) -> str:
    """Build the Dockerfile of `folder`, or `dockerfile` with `folder` as its context."""
    bases = {"BASE": base_image(dockerd), "BUILD_BASE": build_base_image(dockerd)}
    arguments = {**bases, **(build_args or {})}
    _build(dockerd, folder, tag, dockerfile or folder / "Dockerfile", arguments)
    return tag


def save(dockerd: Dockerd, tag: str) -> Path:
    """Write the image to an archive that `Cluster.load` takes."""
    archives().mkdir(exist_ok=True)
    archive = archives() / (re.sub(r"[^\w.-]+", "_", tag) + ".tar")
    dockerd.docker("save", "--output", archive, tag, timeout_s=COPY_TIMEOUT_S)
    return archive


def archives() -> Path:
    """Where `save` writes to."""
    return state_folder() / "images"


def _build(
    dockerd: Dockerd, folder: Path, tag: str, dockerfile: Path, arguments: Mapping[str, str]
) -> None:
    options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    command = ["build", "--network=host", "--tag", tag, "--file", str(dockerfile), *options]
    dockerd.docker(*command, folder, timeout_s=BUILD_TIMEOUT_S)


def _exists(dockerd: Dockerd, tag: str) -> bool:
    return bool(dockerd.docker("image", "ls", "--quiet", tag).strip())


# -- the base ------------------------------------------------------------------------


def _base_archive() -> Path:
    """The base's files as an archive in the cache."""
    archive = cache_folder() / f"{BASE.rpartition('/')[2].replace(':', '-')}.tar"
    if archive.exists():
        return archive
    debian.require_root()
    debian.ensure(debian.IMAGES)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="debootstrap-") as name:
        root = Path(name) / "root"
        _debootstrap(root)
        unfinished = Path(name) / "base.tar"
        run("tar", "--create", "--numeric-owner", "--file", unfinished, "--directory", root, ".")
        unfinished.rename(archive)
    return archive


def _debootstrap(root: Path) -> None:
    """In namespaces of its own, so that no mount stays behind if it is killed."""
    mirror = os.environ.get("ROWLOCK_TESTBED_DEBIAN_MIRROR", MIRROR)
    try:
        run(
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "debootstrap"),
            *("--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root, mirror),
            timeout_s=DEBOOTSTRAP_TIMEOUT_S,
        )
    except CommandFailed as error:
        log = root / "debootstrap" / "debootstrap.log"
        details = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        raise TestbedError(f"{error}\n{details}") from error
    for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(root / waste, ignore_errors=True)
        (root / waste).mkdir(parents=True)


# -- what pip needs here -------------------------------------------------------------


def _certificates() -> Path:
    """The authorities that this machine trusts, its own among them perhaps."""
    places = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, CERTIFICATES)
    for place in places:
        if place and Path(place).is_file():
            return Path(place)
    raise TestbedError("no bundle of certificates found; set SSL_CERT_FILE to one.")


def _pip_settings() -> str:
    """This machine's pip settings that say where packages come from, as a file for the image."""
    listed = run(sys.executable, "-m", "pip", "config", "list")
    found = re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", listed, re.M)
    lines = [f"{name} = {value}" for name, value in found if name in PIP_SETTINGS]
    return "\n".join(["[global]", f"cert = {CERTIFICATES}", *lines]) + "\n"
