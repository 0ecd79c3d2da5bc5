"""``python -m rowlock_loadtest``: measure Rowlock on an embedded Postgres of its own.

Rounds are interleaved, and medians are shown, because shared machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rowlock.embedded import Server
from rowlock_loadtest import bench
from rowlock_loadtest.scenarios import SCENARIOS, Figures

SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "max_connections": "200",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="rowlock_loadtest", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=1, help="interleaved rounds; medians are shown"
    )
    parser.add_argument("--only", default="", help="scenarios, separated by commas")
    parser.add_argument("--beside-pgbench", action="store_true", help="single-row commits as well")
    parser.add_argument("--sleepers", type=int, default=10_000, help="runs that sleep at a time")
    parser.add_argument("--children", type=int, default=10_000, help="of one parent (fan_out)")
    parser.add_argument("--runs", type=int, default=1_000_000, help="finished ones (lists)")
    parser.add_argument("--unfinished", type=int, default=0, help="runs beside those (lists)")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    names = (
        chosen.only.split(",") if chosen.only else [name for name in SCENARIOS if name != "lists"]
    )
    if unknown := set(names) - SCENARIOS.keys():
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    options: dict[str, dict[str, int]] = {
        "sleepers": {"runs": chosen.sleepers},
        "fan_out": {"children": chosen.children},
        "lists": {"runs": chosen.runs, "unfinished": chosen.unfinished},
    }
    found: dict[str, list[Figures]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="rowlock-loadtest-") as folder:
        Path(folder).chmod(0o711)  # the server may run as another user
        with Server(Path(folder) / "data", settings=SETTINGS) as server:
            for _ in range(chosen.rounds):
                if chosen.beside_pgbench:
                    found["pgbench, 32 clients"].append(
                        {"per_second": bench.pgbench(server, 32, 3)}
                    )
                for name in names:
                    with bench.fresh(server) as one:
                        found[name].append(SCENARIOS[name](one, **options.get(name, {})))
    medians = {
        name: {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    if chosen.json:
        print(json.dumps(medians, indent=2))
        return
    table = Table("scenario", "figure", "median", title=f"{chosen.rounds} rounds")
    for name, figures in medians.items():
        for key, value in figures.items():
            table.add_row(
                name, key.replace("_", " "), f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
            )
    Console().print(table)


if __name__ == "__main__":
    main()
