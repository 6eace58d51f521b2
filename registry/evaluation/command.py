"""`supernet-registry evaluate`: does knowledge build up on these tasks?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from supernet_registry.clients.cli import output
from supernet_registry.clients.cli.options import RECIPE, SPACE, AsJson, takes
from supernet_registry.registry.evaluation.policies import DEFAULT_POLICIES, QUICK_POLICIES, Policy
from supernet_registry.search.errors import InvalidArgument, SearchFailed

if TYPE_CHECKING:
    from supernet_registry.registry.evaluation.checks import Check
    from supernet_registry.registry.evaluation.records import PolicySummary, Summary

__all__ = ["evaluate"]


@takes(SPACE, RECIPE)
def evaluate(
    *,
    streams: Annotated[
        list[str] | None,
        typer.Argument(metavar="STREAM...", help="Names of streams; by default all of the file.", show_default=False),
    ] = None,
    tasks: Annotated[Path, typer.Option(help="Folder of the tasks: .npz files or image folders.")],
    streams_file: Annotated[
        Path | None,
        typer.Option(
            "--streams",
            help="JSON file that defines streams.",
            show_default="streams.json in the tasks' folder, if any",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of registries, runs and report; a later call goes on there.")
    ] = Path("evaluation"),
    policies: Annotated[
        list[Policy] | None,
        typer.Option("--policy", "-p", help="A policy to compare; repeat it.", show_default="all but fixed-pretrained"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1, each also another draw of drawn steps.")] = 3,
    shuffled: Annotated[
        bool, typer.Option("--shuffled", help="Also run every stream in another order for each seed, as a control.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Runs at the same time, with a registry each; 0 for one a core.")
    ] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed of the first stream; registry, scratch and the fixed network.")
    ] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Run nothing, report what is there.")] = False,
    pretrained: Annotated[
        Path | None, typer.Option(help="safetensors file of torchvision's resnet18, for fixed-pretrained.")
    ] = None,
    mlflow_uri: Annotated[
        str | None, typer.Option(help="MLflow tracking server; default: a SQLite store in the output folder.")
    ] = None,
    no_mlflow: Annotated[bool, typer.Option("--no-mlflow", help="Log nothing to MLflow.")] = False,
    options: dict[str, Any],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Run task streams under several policies and report whether knowledge builds up.

    Every policy's stream runs through a registry of its own: server, worker, write-back. Killed or stopped, the same
    command goes on; with more seeds, streams or policies it adds what is missing. The report is one HTML page, a
    Markdown file, and runs in MLflow.

    Examples:

        supernet-registry evaluate --tasks my_tasks/

        supernet-registry evaluate s_pairs s_trap --tasks tasks/ --seeds 3 --workers 4

        supernet-registry evaluate --tasks tasks/ --quick
    """
    from supernet_registry.registry.evaluation.evaluating import evaluate_plan, report
    from supernet_registry.registry.evaluation.plan import SHUFFLED, Plan

    file = streams_file or tasks / "streams.json"
    file_given = streams_file is not None or file.is_file()
    names = tuple(streams or (_streams_of(file) if file_given else [tasks.resolve().name]))
    if quick:
        names, seeds, policies = names[:1], 1, policies or list(QUICK_POLICIES)
    plan = Plan(
        tasks=tasks,
        streams_file=file if file_given else None,
        streams=(*names, *(name + SHUFFLED for name in names if shuffled)),
        policies=tuple(policies or DEFAULT_POLICIES),
        seeds=tuple(range(seeds)),
        device=device,
        pretrained=pretrained,
        search={
            "space": options["space"].to_json() if "space" in options else None,
            "recipe": options["recipe"],
        },
    )
    failures = [] if report_only else evaluate_plan(plan, out, workers=workers)
    summary, checks, files = report(out, mlflow_uri=mlflow_uri, log=not no_mlflow)
    if as_json:
        output.print_json({"summary": summary, "checks": checks, "files": [str(path) for path in files]})
    else:
        _print(summary, checks)
        for path in files:
            output.say(f"Written: {path}")
    if failures:
        raise SearchFailed(
            f"{len(failures)} runs failed, first {failures[0].unit}: {failures[0]}",
            remedy=f"See {failures[0].log}; the same command tries them again.",
        )


def _streams_of(file: Path) -> list[str]:
    """Names of all streams of a file; those that cannot be read are told by `TaskStream.from_json`."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"{file} cannot be read: {error}.", remedy="Correct the file.", field="streams"
        ) from error
    return list(content) if isinstance(content, dict) else []


def _print(summary: Summary, checks: Sequence[Check]) -> None:
    output.print_table(
        [
            "policy",
            ">supernet",
            ">child",
            ">forward transfer",
            ">speed-up",
            ">of related",
            ">worse",
            ">hits",
            ">seconds",
        ],
        [_policy_row(policy) for policy in summary.policies],
        title="Test accuracy; against scratch: transfer in points, median speed-up, share of tasks that are worse",
    )
    output.print_table(
        ["check", ">value", ">target", "reached"],
        [(c.name, f"{c.value:.3g} {c.unit}", str(c.target), "yes" if c.passed else "NO") for c in checks],
        title="Checks",
    )


def _policy_row(policy: PolicySummary) -> tuple[str, ...]:
    transfer, speed, related = policy.forward_transfer, policy.speed_up, policy.related_speed_up
    return (
        policy.policy,
        output.percent(policy.average_accuracy),
        output.percent(policy.child_average_accuracy),
        f"{100 * transfer.value:+.1f} [{100 * transfer.low:+.1f}, {100 * transfer.high:+.1f}]" if transfer else "",
        f"{speed.value:.1f}× [{speed.low:.1f}, {speed.high:.1f}]" if speed else "",
        f"{related.value:.1f}×" if related else "",
        output.percent(policy.negative) if policy.negative is not None else "",
        f"{policy.hits}/{policy.expected}" if policy.expected else "",
        f"{policy.seconds:.0f}",
    )
