"""Run a daemon so that nothing of it can stay behind.

Its processes live in a process and a mount namespace: when the first of them ends, however it ends,
the kernel ends the others and drops every mount. All of them are in one control group of a name of
our own, which says at any time, after any crash, what is ours: no process ids are written down that
could mean another process by the time they are read.

What the kernel does not drop is removed by `end`: the control groups, which are only names by then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.command import TestbedError

CGROUPS = Path("/sys/fs/cgroup")
DAEMONS = "daemons"  # the group below ours for the daemons themselves
TRACKER = "pids"  # with cgroup v1: the hierarchy that we look for processes in
POLL_S = 0.05

# The group first, so that there is no moment at which a process of ours is not in it. The private
# folders below /run are for what the daemons write there whatever they are told.
ENTER = 'echo 0 > "$1" && shift && exec "$@"'
HIDE = """\
for folder in /run/netns /run/containerd; do
  mkdir -p "$folder" && mount -t tmpfs tmpfs "$folder" || exit
done
"""
# The other end of standard input is held by the process that started us, and by no other.
BIND = """\
exec {fd}<&0
(cat <&{fd} >/dev/null; kill -TERM 1) &
exec {fd}<&-
"""
BECOME = 'exec "$@" </dev/null'


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A control group and namespaces for one daemon and all that it starts."""

    name: str

    def start(
        self,
        command: list[str],
        log: Path,
        *,
        own_network: bool = False,
        inherit: tuple[int, ...] = (),
        env: Mapping[str, str] | None = None,
        bound: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start `command` as process 1 of new namespaces; its output goes to `log`.

        A `bound` one is told to end (SIGTERM) when our process has ended, whatever ended it, or has
        dropped the result.
        """
        self._make_groups()
        unshare = ["unshare", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child"]
        if own_network:
            unshare.append("--net")
        free = next(fd for fd in range(3, 10) if fd not in inherit)  # one digit is all sh knows
        script = HIDE + (BIND.format(fd=free) if bound else "") + BECOME
        inside = ["sh", "-c", script, "sh", *command]
        with log.open("wb") as output:
            return subprocess.Popen(
                ["sh", "-c", ENTER, "sh", str(self._processes_file()), *unshare, *inside],
                stdin=subprocess.PIPE if bound else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=inherit,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def processes(self) -> list[int]:
        """The ids of all living processes in it, containers' included."""
        found: set[int] = set()
        for group in self.groups():
            for folder, _, _ in os.walk(group):  # it passes over what vanishes meanwhile
                found.update(_ids(Path(folder) / "cgroup.procs"))
        return sorted(found)

    def groups(self) -> list[Path]:
        """Our group in each hierarchy: several with cgroup v1, one with v2."""
        return sorted([*CGROUPS.glob(self.name), *CGROUPS.glob(f"*/{self.name}")])

    def end(self, *, grace_s: float = 0.0, timeout_s: float = 60.0) -> None:
        """End all processes, after `grace_s` to end by themselves, and remove the groups."""
        if grace_s:
            self._signal(signal.SIGTERM)
            self._empty_within(grace_s)
        end = time.monotonic() + timeout_s
        while not self._empty_within(1.0):
            self._signal(signal.SIGKILL)
            if time.monotonic() > end:
                raise TestbedError(f"these processes do not end: {self.processes()}")
        self._remove_groups(end)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue  # it went with its namespace

    def _empty_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.processes():
                return True
            time.sleep(POLL_S)
        return False

    # -- control groups ------------------------------------------------------------------

    def _processes_file(self) -> Path:
        base = CGROUPS if _is_v2() else CGROUPS / TRACKER
        return base / self.name / DAEMONS / "cgroup.procs"

    def _make_groups(self) -> None:
        """With cgroup v1 in every hierarchy: the kubelet looks for its root group in each."""
        for hierarchy in _hierarchies():
            group = hierarchy / self.name
            group.mkdir(exist_ok=True)
            # A new group of v1 has no processors and no memory nodes, and can run nothing.
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not _is_v2() and (group / name).exists():
                    (group / name).write_text((hierarchy / name).read_text())
        if _is_v2():
            _delegate(CGROUPS / self.name)
        self._processes_file().parent.mkdir(exist_ok=True)

    def _remove_groups(self, deadline: float) -> None:
        """A group stays busy for a moment after its last process has ended."""
        while groups := self.groups():
            for group in groups:
                _remove_tree(group)
            if time.monotonic() > deadline:
                raise TestbedError(f"these control groups can't be removed: {self.groups()}")
            time.sleep(POLL_S)


def bury(process: subprocess.Popen[bytes]) -> None:
    """Let go of what `start` returned, once its sandbox has ended."""
    if process.stdin is not None:
        process.stdin.close()
    process.wait()


def _is_v2() -> bool:
    return (CGROUPS / "cgroup.controllers").exists()


def _hierarchies() -> Iterator[Path]:
    if _is_v2():
        yield CGROUPS
        return
    for folder in CGROUPS.iterdir():
        # Symbolic links are second names (cpu -> cpu,cpuacct).
        if folder.is_dir() and not folder.is_symlink() and (folder / "cgroup.procs").exists():
            yield folder


def _delegate(group: Path) -> None:
    """With cgroup v2, let groups below this one be limited."""
    names = (group / "cgroup.controllers").read_text().split()
    (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in names))


def _remove_tree(group: Path) -> None:
    below = sorted((Path(folder) for folder, _, _ in os.walk(group)), reverse=True)[:-1]
    for folder in [*below, group]:
        try:
            folder.rmdir()
        except OSError:
            continue  # busy still; the caller looks again


def _ids(file: Path) -> list[int]:
    try:
        return [int(line) for line in file.read_text().split()]
    except OSError:
        return []  # the group went while we looked
