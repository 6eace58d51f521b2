"""How a command line ends: results on stdout, one line about an error on stderr, and an exit code that means something.

0   done                                        6    wait, then try again (no server, disk full, deadline)
2   the request is wrong, or its usage          7    stored data are corrupt
3   there is no such thing                      8    not allowed
4   somebody else was first                     9    the search itself failed or was cancelled
5   not possible in this state                  70   a bug          130   interrupted by Ctrl-C
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from supernet_registry.clients.cli import output
from supernet_registry.search.errors import InternalError, SupernetRegistryError

__all__ = ["INTERRUPTED", "Interrupted", "report", "run"]

INTERRUPTED = 130
_USAGE = 2
# typer carries its own copy of click from 0.20 on: find the base class wherever it lives.
_UsageProblem: type[Exception] = typer.BadParameter.__mro__[2]


class Interrupted(Exception):
    """Ctrl-C ended the waiting for a job, which goes on.

    Args:
        job: `searchJobs/{id}`.
        remedies: lines on how to follow or stop it.
    """

    def __init__(self, job: str, *remedies: str) -> None:
        super().__init__(f"{job} goes on without you.")
        self.job = job
        self.remedies = remedies


def run(app: typer.Typer, arguments: Sequence[str] | None = None, *, name: str = "supernet-registry") -> int:
    """Run a command line of `app` and return its exit code; no exception of ours escapes, and no traceback is shown.

    Args:
        app: the commands.
        arguments: without the program's name; by default those of the process.
        name: the program's name in help texts.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    command = typer.main.get_command(app)
    try:
        result = command.main(args=words, prog_name=name, standalone_mode=False)
        if result == INTERRUPTED:  # that is how typer tells
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except typer.Exit as error:
        return error.exit_code
    except Interrupted as error:
        return _report_interrupt(str(error), error.job, error.remedies, as_json=as_json)
    except SupernetRegistryError as error:
        report(error, as_json=as_json)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _report_interrupt("Interrupted.", "", (), as_json=as_json)
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this, Python complains once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _UsageProblem as error:
        return _report_usage(error, as_json=as_json)
    except Exception as error:  # noqa: BLE001  the last resort of a program
        return _report_bug(error, as_json=as_json)


def report(error: SupernetRegistryError, *, as_json: bool) -> None:
    """One line about what is wrong, one about what to do; the same as JSON on stdout where that was asked for."""
    where = f"{error.field}: " if error.field else ""
    output.say(f"error: {where}{error.message}", style="bold red")
    if error.remedy:
        output.say(f"       {error.remedy}")
    if as_json:
        output.print_json({"error": _described(error)})


def _described(error: SupernetRegistryError) -> dict[str, Any]:
    return {
        "reason": error.reason,
        "message": error.message,
        "remedy": error.remedy,
        "field": error.field,
        "retry_after_s": error.retry_after_s,
        "metadata": error.metadata,
        "exit_code": error.exit_code,
    }


def _report_interrupt(message: str, job: str, remedies: Sequence[str], *, as_json: bool) -> int:
    for line in (message, *remedies):
        output.say(line)
    if as_json:
        described = {"reason": "INTERRUPTED", "message": message, "remedy": "; ".join(remedies), "job": job}
        output.print_json({"error": {**described, "exit_code": INTERRUPTED}})
    return INTERRUPTED


def _report_usage(error: Any, *, as_json: bool) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return _USAGE
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "supernet-registry"
    message, remedy = error.format_message(), f"See `{command} --help`."
    output.say(f"error: {message}", style="bold red")
    output.say(f"       {remedy}")
    if as_json:
        described = {"reason": "INVALID_ARGUMENT", "message": message, "remedy": remedy, "exit_code": _USAGE}
        output.print_json({"error": described})
    return _USAGE


def _report_bug(error: Exception, *, as_json: bool) -> int:
    if os.environ.get("SUPERNET_REGISTRY_TRACEBACK"):
        traceback.print_exc()
    report(
        InternalError(
            f"{type(error).__name__}: {error}",
            remedy="This is a bug. Set SUPERNET_REGISTRY_TRACEBACK=1 and report what is then printed.",
        ),
        as_json=as_json,
    )
    return InternalError.exit_code
