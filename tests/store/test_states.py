"""The database allows exactly the states that model/states.py knows."""

from __future__ import annotations

import re
from enum import StrEnum

import psycopg
import pytest

from rowlock.model.states import TRANSITIONS, Outcome, TaskState


def words_of(database: str, constraint: str) -> set[str]:
    """The words that a CHECK lists."""
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "select pg_get_constraintdef(oid) from pg_constraint where conname = %s", [constraint]
        ).fetchone()
    assert row is not None, f"there is no constraint {constraint}"
    return set(re.findall(r"'([^']*)'", row[0]))


@pytest.mark.parametrize(
    ("constraint", "words"), [("task_state", TaskState), ("outcome_status", Outcome)]
)
def test_the_check_lists_the_words_of_the_enum(
    database: str, constraint: str, words: type[StrEnum]
) -> None:
    assert words_of(database, constraint) == {str(word) for word in words}


def test_an_unfinished_run_and_a_finished_one_never_share_a_word() -> None:
    """The view's status is the one or the other."""
    assert not {str(state) for state in TaskState} & {str(outcome) for outcome in Outcome}


def test_the_transitions_name_every_state() -> None:
    assert set(TRANSITIONS) == set(TaskState)
