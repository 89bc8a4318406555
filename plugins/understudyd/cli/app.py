"""The group of all commands, and how a command ends.

Rules: exit code 0 done, 1 failed, 2 wrong use or configuration. What goes wrong is one line on
stderr without a password and without a traceback: click repeats arguments in its own messages, and
an argument may be a URI, so those pass through `redact` as well.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from understudy import ConfigurationError, UnderstudyError, __version__, redact

__all__ = ["run"]

COMMANDS = ("bridge", "cluster", "network", "sidecar", "uri")


class _Commands(click.Group):
    """Imports a command when it is used: a sidecar has no need of what prints tables."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"understudyd.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="understudy")
def understudy() -> None:
    """Failover URIs, master/slave groups and bridges."""


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    try:
        code = understudy.main(list(arguments), prog_name="understudy", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _told(error.format_message(), error.exit_code)
    except ConfigurationError as error:
        return _told(str(error), 2)
    except UnderstudyError as error:
        return _told(str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        return _told("interrupted", 1)
    except BrokenPipeError:  # `understudy … | head`; nobody is left to read what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _told(message: str, code: int) -> int:
    click.echo(f"understudy: {' '.join(redact(message).split())}", err=True)
    return code
