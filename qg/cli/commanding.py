"""What all commands share: help that ends with the exit statuses, and a group that imports a command when it runs."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click

from qg.cli.endings import status_of

__all__ = ["Command", "Commands", "Group"]


class _WithStatuses(click.Command):
    """Its help ends with the exit statuses.

    Args:
        no: what exit status 1 means here; None where the command never ends with it.
    """

    def __init__(self, *args: Any, no: str | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.no = no

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        statuses = [("0", "done"), ("2", "it couldn't run"), ("128+n", "ended by signal n; Ctrl-C is 130")]
        if self.no is not None:
            statuses.insert(1, ("1", self.no))
        with formatter.section("Exit status"):
            formatter.write_dl(statuses)
        super().format_epilog(ctx, formatter)


class Command(_WithStatuses):
    """A command. Its function returns the exit status, or None if it is done."""


class Group(_WithStatuses, click.Group):
    """Commands that belong together."""

    command_class = Command


class Commands(Group):
    """The commands of the program, each imported when it runs.

    Args:
        lazy: by the name of each where it is, as ``"module:name"``, and the first line of its help.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command of this name; None if there is none."""
        if name not in self._lazy:
            return None
        module, attribute = self._lazy[name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what there is, and import nothing for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called; one that isn't there is told with the nearest, or with those that are."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if args[0].startswith("-"):
                raise
            near = difflib.get_close_matches(args[0], self._lazy, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self._lazy)}"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx) from None

    def invoke(self, ctx: click.Context) -> None:
        """Run the command that is called."""
        ctx.exit(status_of(lambda: super(Commands, self).invoke(ctx)))
