"""The protocols hold in every order of their steps; with a rule broken, the model says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.checking import BROKEN, HOW_TO_GET_IT, SHORT, Check, broken_rules, can_check, check

pytestmark = pytest.mark.skipif(not can_check(), reason=HOW_TO_GET_IT)


@pytest.mark.parametrize("what", SHORT, ids=str)
def test_every_state_of_a_model_keeps_the_promises(what: Check, tmp_path: Path) -> None:
    found = check(what, tmp_path)
    assert found.exhaustive, found.report


def test_a_model_executes_each_of_its_statements(tmp_path: Path) -> None:
    # The other model needs several sizes for that.
    assert check(Check("mailbox", model="mailbox"), tmp_path).unreached == frozenset()


@pytest.mark.parametrize("what", BROKEN, ids=str)
def test_a_broken_rule_breaks_its_promise(what: Check, tmp_path: Path) -> None:
    found = check(what, tmp_path)
    assert what.refuted_by in found.violated, found.report
    assert found.violated
    assert list(tmp_path.glob("*.trail"))


@pytest.mark.parametrize("model", sorted({what.model for what in SHORT}))
def test_every_rule_that_can_be_broken_is(model: str) -> None:
    assert {what.broken for what in BROKEN if what.model == model} == broken_rules(model)
