"""`rowlock cancel`, `resume`, `retry`, `rewind`, `fork`, `send`, …: what is done to runs.

Each command is a Verb (its words, and the statuses of runs it can be done to) and an act on one
run; which runs are meant and how it is told is the same for all, in selection.py and carrying.py.

Writes: the client's operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import click

from rowlock.blocking import BlockingClient
from rowlock.cli.carrying import carry_out
from rowlock.cli.main import TIMED_OUT
from rowlock.cli.options import (
    arguments,
    database_options,
    duration,
    input_options,
    json_option,
    json_value,
    moment,
    named_json,
    settings_of,
)
from rowlock.cli.output import complain, json_text, print_json
from rowlock.cli.selection import ENDED, STATUSES, UNFINISHED, Selection, Verb, selecting
from rowlock.client import Run, call
from rowlock.errors import ReceiveTimeout
from rowlock.workflow import WorkflowCall

_QUEUED = ("scheduled", "ready", "waiting", "blocked")
_BEGINNING = ("scheduled", "ready")

CANCEL = Verb("cancel", "cancelling", UNFINISHED, UNFINISHED)
RESUME = Verb("resume", "resumed", ("blocked", "cancelled", "dead"), ("blocked",))
RETRY = Verb("retry", "retried", ("failed",), ("failed",))
REWIND = Verb("rewind", "rewound", ENDED)
FORK = Verb("fork", "forked", STATUSES)
MOVE = Verb("move", "moved", _QUEUED, _QUEUED)
REPRIORITISE = Verb("reprioritise", "reprioritised", UNFINISHED, UNFINISHED)
RESCHEDULE = Verb("reschedule", "rescheduled", _BEGINNING, _BEGINNING)
SEND = Verb("send", "sent to", UNFINISHED, UNFINISHED)
SET_EVENT = Verb("event set", "set on", UNFINISHED, UNFINISHED)
EMIT = Verb("emit", "emitted to", UNFINISHED, UNFINISHED)
DELETE = Verb("delete", "deleted", ENDED)

run_ids_argument = click.argument("run_ids", metavar="[RUN_ID]...", type=click.UUID, nargs=-1)


@click.command("cancel")
@run_ids_argument
@click.option(
    "--grace",
    type=duration,
    default="30s",
    show_default=True,
    help="In which a run may clean up.",
)
@click.option("--force", is_flag=True, help="No cleaning up: the run ends where it is.")
@click.option("--reason", help="Stands in the run's error.")
@selecting(CANCEL)
def cancel_command(
    selection: Selection,
    run_ids: tuple[UUID, ...],
    grace: timedelta,
    force: bool,
    reason: str | None,
) -> int:
    """Ask runs to stop, and their children with them.

    A run gets CancelledError where it waits and may clean up within the grace; one that never
    began, or is blocked, ends at once. Returns when that is asked, not when the runs have ended.

    \b
    Example:
      rowlock cancel 01980000-0000-7000-8000-000000000000 --reason 'wrong order'
      rowlock cancel --workflow report --status waiting --since 1h
      rowlock cancel --attributes '{"customer": 42}' --yes --json
    """

    async def act(run: Run[Any]) -> None:
        await run.cancel(grace=grace, force=force, reason=reason)

    return carry_out(selection, run_ids, act)


@click.command("resume")
@run_ids_argument
@selecting(RESUME)
def resume_command(selection: Selection, run_ids: tuple[UUID, ...]) -> int:
    """Let blocked, cancelled or dead runs go on from what they recorded.

    The app's current version takes them. Selected by filters, blocked ones are meant unless
    --status says cancelled or dead. The exit code is 1 if any could not be resumed; the others are.

    \b
    Example:
      rowlock resume 01980000-0000-7000-8000-000000000000
      rowlock resume --workflow fulfil --yes
    """

    async def act(run: Run[Any]) -> None:
        await run.resume()

    return carry_out(selection, run_ids, act)


@click.command("retry")
@run_ids_argument
@selecting(RETRY)
def retry_command(selection: Selection, run_ids: tuple[UUID, ...]) -> int:
    """Let failed runs go on from the step that failed.

    The last step that recorded an error, and all recorded after it, are done again; what came
    before is kept.

    \b
    Example:
      rowlock retry 01980000-0000-7000-8000-000000000000
      rowlock retry --workflow fulfil --since 2h
    """

    async def act(run: Run[Any]) -> None:
        await run.retry()

    return carry_out(selection, run_ids, act)


@click.command("rewind")
@click.argument("targets", metavar="[RUN_ID]... PLACE", nargs=-1)
@input_options
@selecting(REWIND)
def rewind_command(
    selection: Selection, targets: tuple[str, ...], input_: str | None, args: tuple[str, ...]
) -> int:
    """Let ended runs do again what they recorded at a place and after it.

    `rowlock show` lists the places. With --input or --arg the run goes on with that input, as a
    whole, instead of its own. Selected by filters, --status must say which runs.

    \b
    Example:
      rowlock rewind 01980000-0000-7000-8000-000000000000 3
      rowlock rewind 01980000-0000-7000-8000-000000000000 1 --arg order=7 --arg cents=4200
      rowlock rewind 2 --workflow fulfil --status failed --yes
    """
    run_ids, place = runs_and_place(targets)
    if place is None:
        raise click.UsageError("From which place on? `rowlock show RUN_ID` lists the places.")
    changed = _new_input(input_, args)

    async def act(run: Run[Any]) -> None:
        await run.rewind(place, call=await _call_of(run, changed))

    return carry_out(selection, run_ids, act)


@click.command("fork")
@click.argument("targets", metavar="[RUN_ID]... [PLACE]", nargs=-1)
@input_options
@click.option(
    "--outcome",
    "outcomes",
    metavar="PLACE=JSON",
    multiple=True,
    help="Another outcome of a step in the copy; repeatable.",
)
@click.option(
    "--version",
    help="The code version that takes it; the app's current one without.",
)
@click.option(
    "--children",
    is_flag=True,
    help="Fork children that have not ended too, instead of waiting for the same.",
)
@selecting(FORK)
def fork_command(
    selection: Selection,
    targets: tuple[str, ...],
    input_: str | None,
    args: tuple[str, ...],
    outcomes: tuple[str, ...],
    version: str | None,
    children: bool,
) -> int:
    """Start new runs with a copy of what others recorded.

    Kept is what was recorded before PLACE, or all of it; from there the present code goes on. The
    new runs' ids are printed. With --input or --arg they have that input, as a whole. Selected by
    filters, --status must say which runs.

    \b
    Example:
      rowlock fork 01980000-0000-7000-8000-000000000000 3
      rowlock fork 01980000-0000-7000-8000-000000000000 3 --outcome '2="receipt-99"'
      rowlock fork --workflow fulfil --status failed --version shop:2 --yes
    """
    run_ids, place = runs_and_place(targets)
    changed = _new_input(input_, args)
    edited = dict(named_json(one, "--outcome", "PLACE=JSON") for one in outcomes)

    async def act(run: Run[Any]) -> Run[Any]:
        return await run.fork(
            place,
            call=await _call_of(run, changed),
            outcomes=edited or None,
            version=version,
            children=children,
        )

    return carry_out(selection, run_ids, act)


@click.command("move")
@click.argument("words", metavar="[RUN_ID]... QUEUE", nargs=-1)
@selecting(MOVE)
def move_command(selection: Selection, words: tuple[str, ...]) -> int:
    """Put runs that are not running into another queue of their app.

    \b
    Example:
      rowlock move 01980000-0000-7000-8000-000000000000 slow
      rowlock move slow --workflow report --queue default
    """
    run_ids, queue = _runs_and(words, "QUEUE")

    async def act(run: Run[Any]) -> bool:
        return await run.move(queue)

    return carry_out(selection, run_ids, act)


@click.command("reprioritise")
@click.argument("words", metavar="[RUN_ID]... PRIORITY", nargs=-1)
@selecting(REPRIORITISE)
def reprioritise_command(selection: Selection, words: tuple[str, ...]) -> int:
    """Give unfinished runs another priority: 0 is claimed first, 100 last.

    It counts from their next claim on.

    \b
    Example:
      rowlock reprioritise 01980000-0000-7000-8000-000000000000 0
      rowlock reprioritise 90 --workflow report --status ready
    """
    run_ids, text = _runs_and(words, "PRIORITY")
    priority: int = click.IntRange(0, 100)(text)

    async def act(run: Run[Any]) -> bool:
        return await run.reprioritise(priority)

    return carry_out(selection, run_ids, act)


@click.command("reschedule")
@click.argument("words", metavar="[RUN_ID]... WHEN", nargs=-1)
@selecting(RESCHEDULE)
def reschedule_command(selection: Selection, words: tuple[str, ...]) -> int:
    """Let runs that are scheduled or ready be claimed at another time.

    WHEN is `now`, a time from now such as 10m, or a time such as 2026-12-24T08:00, of this
    machine's zone unless it names another.

    \b
    Example:
      rowlock reschedule 01980000-0000-7000-8000-000000000000 now
      rowlock reschedule 01980000-0000-7000-8000-000000000000 2026-12-24T08:00Z
      rowlock reschedule 2h --workflow report --status ready
    """
    run_ids, text = _runs_and(words, "WHEN")
    try:
        at = moment(text)
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint="WHEN") from None

    async def act(run: Run[Any]) -> None:
        await run.reschedule(at)

    return carry_out(selection, run_ids, act)


@click.command("send")
@click.argument("words", metavar="[RUN_ID] TOPIC [JSON]", nargs=-1)
@click.option("--key", help="Send it once: with a key that was used for the run nothing is sent.")
@selecting(SEND)
def send_command(selection: Selection, words: tuple[str, ...], key: str | None) -> int:
    """Send a message to an unfinished run, which gets it with app.receive.

    The value is JSON (null without one), @FILE, or - for standard input. With filters instead of
    RUN_ID it goes to all that match.

    \b
    Example:
      rowlock send 01980000-0000-7000-8000-000000000000 approval true --key click-17
      rowlock send reload --workflow watcher --status waiting --yes
    """
    run_ids, topic, value = _told(selection, words, "TOPIC")

    async def act(run: Run[Any]) -> None:
        await run.send(topic, value, key=key)

    return carry_out(selection, run_ids, act)


@click.command("emit")
@click.argument("words", metavar="[RUN_ID] STREAM [JSON]", nargs=-1)
@selecting(EMIT)
def emit_command(selection: Selection, words: tuple[str, ...]) -> int:
    """Append to a stream of an unfinished run, as the run itself does with app.emit.

    The value is JSON (null without one), @FILE, or - for standard input.

    \b
    Example:
      rowlock emit 01980000-0000-7000-8000-000000000000 log '"checked by hand"'
      rowlock emit log '"restarting at noon"' --workflow watcher --yes
    """
    run_ids, stream, value = _told(selection, words, "STREAM")

    async def act(run: Run[Any]) -> None:
        await run.emit(stream, value)

    return carry_out(selection, run_ids, act)


@click.command("delete")
@run_ids_argument
@selecting(DELETE)
def delete_command(selection: Selection, run_ids: tuple[UUID, ...]) -> int:
    """Delete ended runs with all that was recorded of them, their keys too.

    What something needs (its parent, a fork of it, a child that has not ended) is refused; the
    exit code is 1 then, and the others are gone. `rowlock retain` does it by policy and archives.

    \b
    Example:
      rowlock delete 01980000-0000-7000-8000-000000000000
      rowlock delete --workflow report --status succeeded --yes
    """

    async def act(run: Run[Any]) -> None:
        await run.delete()

    return carry_out(selection, run_ids, act)


@click.group("event")
def event_command() -> None:
    """Set or get an event of a run.

    \b
    Example:
      rowlock event get 01980000-0000-7000-8000-000000000000 progress
      rowlock event set 01980000-0000-7000-8000-000000000000 limit 5
    """


@event_command.command("set")
@click.argument("words", metavar="[RUN_ID] NAME [JSON]", nargs=-1)
@selecting(SET_EVENT)
def event_set_command(selection: Selection, words: tuple[str, ...]) -> int:
    """Set an event of an unfinished run, as the run itself does with app.set_event.

    Whoever waits for it goes on. The value is JSON (null without one), @FILE, or - for standard
    input.

    \b
    Example:
      rowlock event set 01980000-0000-7000-8000-000000000000 limit 5
      rowlock event set limit 5 --workflow watcher --yes
    """
    run_ids, name, value = _told(selection, words, "NAME")

    async def act(run: Run[Any]) -> None:
        await run.set_event(name, value)

    return carry_out(selection, run_ids, act)


@event_command.command("get")
@click.argument("run_id", type=click.UUID)
@click.argument("name")
@click.option("--wait", is_flag=True, help="Wait until it is set for the first time.")
@click.option("--timeout", type=duration, help="With --wait: wait no longer than this.")
@database_options
@json_option
def event_get_command(
    run_id: UUID,
    name: str,
    wait: bool,
    timeout: timedelta | None,
    database_url: str | None,
    as_json: bool,
) -> int:
    """Print the latest value of an event of a run, as JSON.

    The exit code is 1 if the run has ended without setting it, 124 if it is not set (with --wait:
    not within --timeout).

    \b
    Example:
      rowlock event get 01980000-0000-7000-8000-000000000000 progress
      rowlock event get 01980000-0000-7000-8000-000000000000 ready --wait --timeout 10m
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait.")
    with BlockingClient(settings_of(database_url)) as client:
        try:
            value = client.run(run_id).event(name, timeout=timeout if wait else 0)
        except ReceiveTimeout as error:
            if as_json:
                print_json({"run": run_id, "name": name, "is_set": False, "value": None})
            else:
                late = f" within {error.seconds:g} s" if wait else ""
                complain(
                    f"rowlock: event {name} of run {run_id} is not set{late or ' yet'}. "
                    + (
                        f"The run goes on: `rowlock explain {run_id}` says what holds it, and "
                        "--timeout how long to wait."
                        if wait
                        else "--wait waits for it."
                    )
                )
            return TIMED_OUT
    if as_json:
        print_json({"run": run_id, "name": name, "is_set": True, "value": value})
    else:
        click.echo(json_text(value))
    return 0


def runs_and_place(targets: Sequence[str]) -> tuple[list[UUID], str | None]:
    """Ids of runs, and behind them perhaps a place: no place looks like an id."""
    *ids, last = targets or ("",)
    found = _as_id(last)
    place = None if found or not last else last
    run_ids = [_id(text) for text in (ids if place or not last else targets)]
    return run_ids, place


def _runs_and(words: Sequence[str], what: str) -> tuple[list[UUID], str]:
    """Ids of runs, and one word behind them."""
    if not words or (_as_id(words[-1]) and what != "QUEUE"):
        raise click.UsageError(f"{what} is missing: it comes last.")
    return [_id(text) for text in words[:-1]], words[-1]


def _told(selection: Selection, words: Sequence[str], what: str) -> tuple[list[UUID], str, Any]:
    """Whom, on which topic (or under which name), and the value."""
    run_ids = []
    if not selection.is_by_filter:
        if not words:
            raise click.UsageError("To which run? Name its id, or select runs by filters.")
        run_ids, words = [_id(words[0])], words[1:]
    if not 1 <= len(words) <= 2:
        raise click.UsageError(
            f"{'After the filters come' if selection.is_by_filter else 'After RUN_ID come'} "
            f"{what} and perhaps its value as JSON. Text needs quotes of its own: '\"text\"'."
        )
    return run_ids, words[0], json_value(words[1]) if len(words) == 2 else None


def _as_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _id(text: str) -> UUID:
    found = _as_id(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a run's id.", param_hint="RUN_ID")
    return found


def _new_input(text: str | None, args: Sequence[str]) -> dict[str, Any] | None:
    """Another input for runs."""
    return None if text is None and not args else arguments(text, args)


async def _call_of(run: Run[Any], given: dict[str, Any] | None) -> WorkflowCall[Any] | None:
    """A call of this run's workflow with that input, if there is another."""
    return None if given is None else call((await run.info()).workflow, **given)
