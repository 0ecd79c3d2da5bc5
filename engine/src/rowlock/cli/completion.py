"""`rowlock completion`: the script that lets a shell complete commands, options and names.

click's own: the shell calls `rowlock` again for each completion, with the line in its environment.

Reads and writes: nothing; for names see names.py.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from rowlock.cli.main import COMPLETE_VARIABLE, rowlock

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(shell: str) -> None:
    """Print the script that completes rowlock's commands in a shell.

    It completes commands and options; apps, workflows and queues as well, if ROWLOCK_DATABASE_URL
    is set and the database answers within half a second.

    \b
    Example:
      rowlock completion bash > ~/.local/share/bash-completion/completions/rowlock
      rowlock completion zsh > "${fpath[1]}/_rowlock"
      rowlock completion fish > ~/.config/fish/completions/rowlock.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(rowlock, {}, "rowlock", COMPLETE_VARIABLE).source())
