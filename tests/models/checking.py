"""Check the models of docs/models exhaustively with spin, whole and broken on purpose.

A model is whole if spin has seen every state and found nothing; each of the broken ones must be
refuted by a counterexample that breaks the promise it is named for. ``python -m models.checking``
checks the large sizes (`make models`), ``--short`` those of the tests.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

MODELS = Path(__file__).parents[2] / "docs" / "models"
HOW_TO_GET_IT = "spin and gcc are needed (Debian: apt-get install spin gcc libc6-dev)"
DEPTH = 200_000
_UNREACHED = re.compile(r'^\t.*\.pml:(\d+), state \d+, "(?!-end-)(.*)"', re.MULTILINE)

LIMIT = "<=allowed[w]"
"""Promise 4: no claim leaves more running than a limit allowed while it had the gate."""
FENCE = "epoch[t]==e"
"""Promise 3: what is recorded or ended is so by the claim that owns the run."""
ORPHAN = "registered[w]"
"""No claim for a worker that has been declared dead."""
LEAK = "!(((state[0]=="
"""Promise 1: when nobody can do anything any more, everything is done."""

ASLEEP = "!(((state==1)&&(sent>received)))"
"""Promise 7: nobody sleeps for ever while there is a message for him."""


@dataclass(frozen=True)
class Check:
    """One size of a model, perhaps with one rule broken."""

    name: str
    model: str = "claim"
    sizes: dict[str, int | str] = field(default_factory=dict)
    broken: str = ""
    refuted_by: str = ""
    live: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def defines(self) -> list[str]:
        """What the model is compiled with."""
        broken = [f"-DBROKEN_{self.broken}"] if self.broken else []
        return [*(f"-D{name}={value}" for name, value in self.sizes.items()), *broken]


@dataclass(frozen=True)
class Found:
    """What spin says of it."""

    states: int
    seconds: float
    megabytes: float
    exhaustive: bool
    violated: str
    """The assertion, or other property, that a counterexample breaks."""
    unreached: frozenset[str]
    """Statements of the model, with their lines, that are never executed."""
    report: str


CALM: dict[str, int | str] = {"LAPSES": 0, "CRASHES": 0}
LIMITS: dict[str, int | str] = {"SETS": 2, **CALM}

SHORT = [
    Check("limits", sizes={"SETS": 1, "MOST": 1, **CALM}),
    Check("takeovers", sizes={"SETS": 0, "LAPSES": 1, "CRASHES": 0}),
    Check("deaths", sizes={"SETS": 0, "FIRST": 1, "LAPSES": 1, "CRASHES": 1}),
    Check("an end", sizes={"LIVE": 1, "TASKS": 1, "SETS": 1, "MOST": 1, **CALM}, live=True),
    Check("mailbox", model="mailbox"),
]

LONG = [
    Check("limits, changed twice", sizes={"SETS": 2, **CALM}),
    Check("three claimers", sizes={"WORKERS": 3, "SETS": 0, "FIRST": 1, "MOST": 1, **CALM}),
    Check("takeovers and deaths", sizes={"SETS": 0, "LAPSES": 1, "CRASHES": 1}),
    Check("takeovers under a limit", sizes={"SETS": 0, "FIRST": 1, "LAPSES": 2, "CRASHES": 1}),
    Check(
        "takeovers, hand-back, two reapers",
        sizes={"SETS": 0, "TASKS": 1, "REAPERS": 2, "LAPSES": 2, "CRASHES": 1, "HANDBACKS": 1},
    ),
    Check("takeovers while a limit comes", sizes={"SETS": 1, "MOST": 1, "LAPSES": 1, "CRASHES": 0}),
    Check(
        "an end, with bad luck",
        sizes={"LIVE": 3, "TASKS": 1, "SETS": 1, "MOST": 1, "LAPSES": 1, "CRASHES": 1},
        live=True,
    ),
    Check("mailbox, three senders", model="mailbox", sizes={"SENDERS": 3}),
]

_LAPSE: dict[str, int | str] = {"SETS": 0, "LAPSES": 1, "CRASHES": 0}

BROKEN = [
    Check("no gate", broken="NO_GATE", sizes=LIMITS, refuted_by=LIMIT),
    Check("settings once", broken="SETTINGS_READ_ONCE", sizes=LIMITS, refuted_by=LIMIT),
    Check(
        "count beside the lock",
        broken="COUNT_IN_THE_LOCKS_STATEMENT",
        sizes=LIMITS,
        refuted_by=LIMIT,
    ),
    Check("limited share", broken="GATE_SHARED_BY_LIMITED", sizes=LIMITS, refuted_by=LIMIT),
    Check("never marked", broken="NEVER_MARKED", sizes=LIMITS, refuted_by=LIMIT),
    Check("locked not counted", broken="LOCKED_ONES_NOT_COUNTED", sizes=LIMITS, refuted_by=LIMIT),
    Check(
        "revision stays",
        broken="REVISION_STAYS",
        sizes={**LIMITS, "FIRST": 1, "MOST": 1},
        refuted_by=LIMIT,
    ),
    Check(
        "handed over later",
        broken="HANDED_OVER_LATER",
        sizes={"TASKS": 3, "SETS": 0, "FIRST": 1, "MOST": 1, **CALM},
        refuted_by=LIMIT,
    ),
    Check("reaper without fence", broken="REAP_WITHOUT_FENCE", sizes=_LAPSE, refuted_by=ORPHAN),
    Check("journal without fence", broken="JOURNAL_WITHOUT_FENCE", sizes=_LAPSE, refuted_by=FENCE),
    Check("weak takeover", broken="REAP_FOR_NO_KEY_UPDATE", sizes=_LAPSE, refuted_by=FENCE),
    Check("epoch stays", broken="EPOCH_STAYS", sizes=_LAPSE, refuted_by=FENCE),
    Check(
        "claim without worker row",
        broken="CLAIM_WITHOUT_WORKER_ROW",
        sizes=_LAPSE,
        refuted_by=ORPHAN,
    ),
    Check(
        "worker leaves too soon",
        broken="WORKER_LEAVES_BEFORE_ITS_RUNS",
        sizes=_LAPSE,
        refuted_by=LEAK,
    ),
    *(
        Check(f"mailbox: {rule}", model="mailbox", broken=rule, refuted_by=ASLEEP)
        for rule in (
            "LOOK_IN_THE_LOCKS_STATEMENT",
            "OLD_SNAPSHOT_NOTES_NOTHING",
            "SENDER_WITHOUT_LOCK",
            "SLEEP_WITHOUT_A_LOCK",
        )
    ),
]


def can_check() -> bool:
    """Whether what is needed is installed."""
    return shutil.which("spin") is not None and shutil.which("gcc") is not None


def broken_rules(model: str) -> set[str]:
    """The names of the rules that a model can break."""
    return set(re.findall(r"BROKEN_([A-Z_]+)", (MODELS / f"{model}.pml").read_text()))


def check(what: Check, folder: Path) -> Found:
    """Have spin look at every state of it, until one breaks a promise."""
    began = time.monotonic()
    _run("spin", "-a", *what.defines, str(MODELS / f"{what.model}.pml"), folder=folder)
    kind = ["-DNFAIR=4"] if what.live else ["-DSAFETY"]
    # What is refuted soon takes longer to compile well than to run.
    level = "-O0" if what.broken else "-O1"
    options = ("-w", "-DCOLLAPSE", "-DVECTORSZ=2048", "-DMEMLIM=4000", *kind)
    _run("gcc", level, *options, "-o", "pan", "pan.c", folder=folder)
    report = _run("./pan", f"-m{DEPTH}", *(["-a", "-f"] if what.live else []), folder=folder)
    states = re.search(r"(\d+) states, stored", report)
    violated = re.search(r"^pan:\d+: (.*) \(at depth", report, re.MULTILINE)
    memory = re.search(r"([\d.]+)\ttotal actual memory", report)
    cut = ("Search not completed", "search depth too small", "out of memory", "memory limit")
    return Found(
        states=int(states[1]) if states else 0,
        seconds=time.monotonic() - began,
        megabytes=float(memory[1]) if memory else 0.0,
        exhaustive="errors: 0" in report and not any(reason in report for reason in cut),
        violated=violated[1] if violated else "",
        unreached=frozenset(f"{line}: {text}" for line, text in _UNREACHED.findall(report)),
        report=report,
    )


def _run(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 and command[0] != "./pan":
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def main(arguments: list[str]) -> int:
    """Check them all, one after the other, and print a line for each."""
    if not can_check():
        print(HOW_TO_GET_IT, file=sys.stderr)
        return 2
    wrong = 0
    for what in [*(SHORT if "--short" in arguments else LONG), *BROKEN]:
        with tempfile.TemporaryDirectory() as folder:
            found = check(what, Path(folder))
        good = what.refuted_by in found.violated if what.broken else found.exhaustive
        wrong += not good
        print(
            f"{'ok   ' if good else 'WRONG'} {what.name:35} {found.states:>10,} states "
            f"{found.seconds:6.0f} s {found.megabytes:6.0f} MB  {found.violated}",
            flush=True,
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
