"""`rowlock limit`: what limits a queue is shown, set, taken away, and set back."""

from __future__ import annotations

from cli.running import query, rowlock, rowlock_json


def test_limits_are_set_shown_removed_and_reset(database: str) -> None:
    query(
        database,
        "select rowlock.declare_queues('shop', '', '{\"payments\": {\"concurrency\": 7}}', false)",
    )
    ask = ("limit", "payments", "--app", "shop")
    assert rowlock_json(*ask, database=database) == {
        "changed": False,
        "queue": "payments",
        "limits": {"concurrency": 7},
    }
    more = ("--concurrency", "5", "--rate", "100/min burst 20", "--ageing", "60")
    done = rowlock(*ask, *more, database=database)
    assert done.stdout.startswith(
        "changed\nconcurrency 5, rate 100/min burst 20, ageing 60.0 (set by "
    )
    assert rowlock_json("queues", "--app", "shop", database=database)[0]["rate"] is not None
    assert "concurrency 5" in rowlock("queues", "--app", "shop", database=database).stdout
    removed = rowlock_json(*ask, "--remove", "rate", "--remove", "ageing", database=database)
    assert (removed["changed"], removed["limits"]) == (True, {"concurrency": 5})
    assert rowlock(*ask, "--reset", database=database).stdout == "changed\nconcurrency 7\n"


def test_what_is_no_limit_is_refused(database: str) -> None:
    query(database, "select rowlock.show_app('shop', '{default}', '{fulfil}', '{default}')")
    for arguments, said in (
        (("--concurrency", "0"), "from 1 to 1,000,000"),
        (("--weight", "nan"), "must be from 0.001 to 1000"),
        (("--ageing", "nan"), "is not a duration"),
        (("--ageing", "1e400"), "is not a duration"),
        (("--ageing", "9" * 400), "more than a hundred years"),
        (("--rate", "often"), "write a number, a slash and a period"),
        (("--partition-rate", "1/s"), "needs a queue with partitions"),
        (("--reset", "--concurrency", "1"), "one at a time"),
    ):
        done = rowlock("limit", "default", "--app", "shop", *arguments, database=database)
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert rowlock("limit", "nowhere", "--app", "shop", database=database).returncode != 0
