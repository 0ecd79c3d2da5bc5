"""Sentences for figures made up by hand."""

from __future__ import annotations

from loadtest.making import BROKEN, HELD, histogram, point, sample, sweep
from rowlock_loadtest.contention.results import Part
from rowlock_loadtest.contention.verdict import cause, remarks, verdict


def test_where_more_claimers_bring_nothing_the_database_is_saturated() -> None:
    said = remarks(sweep({1: 1000, 2: 1900, 4: 3000, 8: 3050, 16: 2900}))
    assert said[0].startswith(
        "This database saturates at about 3,050 runs/s (batches of 10, from 4"
    )
    assert "gives 0.95 of its best" in said[1]


def test_where_the_last_point_is_the_best_it_is_not() -> None:
    [first, *_] = remarks(sweep({1: 1000, 2: 1900, 4: 3800}))
    assert first.startswith("This database is not saturated by 4 claimers")


def test_a_used_up_cpu_is_the_cause_whatever_sessions_wait_for() -> None:
    waiting = [sample(0.1, IO__WalSync=9, CPU=1)]
    assert "CPU of this machine is used up (3% idle)" in cause(
        point("p", idle=0.03, samples=waiting)
    )
    [first, *_] = remarks(sweep({1: 1000, 2: 1900, 4: 2200}, idle=0.03))
    assert "saturates" in first


def test_whose_cpu_it_was_is_told_when_others_took_much_of_it() -> None:
    one = point("p", idle=0.0)
    one.cpu_own = 0.45
    assert cause(one).endswith("though 55% of it by others than this load")
    one.cpu_own = 0.9
    assert cause(one) == "the CPU of this machine is used up (0% idle)"


def test_what_busy_sessions_mostly_wait_for_is_the_cause() -> None:
    assert "until the disk has the log" in cause(
        point("p", samples=[sample(0.1, IO__WalSync=6, CPU=4)])
    )
    assert "row locks" in cause(point("p", samples=[sample(0.1, Lock__transactionid=6, CPU=4)]))
    assert "Odd: Thing" in cause(point("p", samples=[sample(0.1, Odd__Thing=6, CPU=4)]))
    assert "compute" in cause(point("p", samples=[sample(0.1, CPU=4)]))
    assert "no one cause" in cause(point("p", samples=[]))


def test_the_law_is_fitted_only_to_points_that_left_cpu_idle() -> None:
    rates = {1: 1000.0, 2: 1900.0, 4: 3400.0, 8: 5500.0}
    assert any("contention 0.0" in line for line in remarks(sweep(rates)))
    [*_, line] = remarks(sweep(rates, idle=0.05))
    assert "no Universal Scalability Law is fitted, since only 0 points" in line
    [*_, line] = remarks(sweep(rates, idle=None))
    assert "no Universal Scalability Law" in line


def test_a_broken_invariant_stands_first_and_is_never_hidden() -> None:
    part = sweep({1: 1000, 2: 1900})
    part.points[1].checks.append(BROKEN)
    part.remarks = remarks(part)
    assert part.remarks[0] == "FAILED: 2 claimers: nothing is lost: 10 accepted, 9 there"
    [first, second, *_] = verdict([part])
    assert first.startswith("FAILED: 1 of 3 checks: nothing is lost.")
    assert second.startswith("This database")


def test_of_a_scenario_that_was_cut_short_only_the_checks_are_told() -> None:
    part = sweep({1: 1000.0, 2: 1010.0}, checks=[HELD, BROKEN])
    part.finished = False
    part.remarks = remarks(part)
    assert part.remarks[0].startswith("FAILED: 1 claimers: nothing is lost")
    assert part.remarks[-1] == "Cut short after 2 loads: no more is said of these."
    said = verdict([part])
    assert said[0].startswith("FAILED: 2 of 4 checks")
    assert said[1:] == ["Cut short: claimers; what it had measured stands there."]


def test_what_was_not_run_is_told() -> None:
    part = Part("limits", "Limits", "…", skipped=["all of it: there are no limits"])
    part.remarks = remarks(part)
    assert verdict([part]) == ["Not run in full: limits; the reason stands there."]


def test_limits_that_held_are_told_with_the_most_that_ran() -> None:
    part = Part("limits", "Limits", "…")
    part.points = [point("binding: 10")]
    part.points[0].limit, part.points[0].most_running = 10, 9
    assert remarks(part)[0] == "Limits held at every instant: the most that ran was 9 of 10."
    part.points[0].checks.append(BROKEN)
    assert "Limits were EXCEEDED" in remarks(part)[1]


def test_phases_of_a_pinned_xmin_are_compared_with_the_clean_one() -> None:
    part = Part("pinned", "Pinned", "…")
    one = point("clean, held, recovery", phase_seconds=1.0)
    one.timeline = [(0.0, 1000.0), (0.5, 1000.0), (1.0, 400.0), (1.5, 600.0), (2.0, 900.0)]
    one.latencies |= {
        f"claim, {name}": histogram(ms) for name, ms in (("clean", 1), ("held", 5), ("recovery", 2))
    }
    part.points = [one]
    [first, second] = remarks(part)
    assert "0.50 of the clean rate (500 of 1,000 runs/s" in first
    assert "after it, at 0.90" in first
    assert second == "A claim's p99: 1.0 ms clean, 5.0 ms held, 2.0 ms after."
