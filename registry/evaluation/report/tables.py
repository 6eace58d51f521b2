"""The tables of a report, as text: the page and the Markdown file show the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from supernet_registry.clients.streams.results import StreamRow
from supernet_registry.registry.evaluation.checks import Check
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.registry.evaluation.records import Comparison, Interval, PolicySummary, Run, Summary, TaskSummary

__all__ = ["Table", "accumulation_table", "check_table", "decision_table", "policy_table", "task_table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Headings and rows; the first `words` columns are words, the others numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1

    def markdown(self) -> str:
        """As a Markdown table."""
        rule = ["---" if i < self.words else "---:" for i in range(len(self.columns))]
        return "\n".join(
            f"| {' | '.join(cell.replace('|', '/').replace('<', '&lt;') for cell in row)} |"
            for row in (self.columns, rule, *self.rows)
        )


def check_table(checks: Sequence[Check]) -> Table:
    """Every number that is asked for."""
    return Table(
        columns=("what is asked for", "reached", "measured", "asked"),
        rows=tuple(
            (c.name, "yes" if c.passed else "no", f"{c.value:.3g} {c.unit}".strip(), f"{c.target} {c.unit}".strip())
            for c in checks
        ),
        words=2,
    )


def policy_table(summary: Summary) -> Table:
    """One row a policy."""
    return Table(
        columns=(
            "policy",
            "supernet",
            "child",
            "transfer, supernet",
            "transfer, child",
            "speed-up",
            "of related tasks",
            "in seconds",
            "better / tied / worse",
            "worst task",
            "expected sources",
            "regret",
            "MB a task",
            "seconds",
        ),
        rows=tuple(_policy_row(policy) for policy in summary.policies),
    )


def _policy_row(p: PolicySummary) -> tuple[str, ...]:
    shares = [p.positive, p.tied, p.negative]
    return (
        p.policy,
        _percent(p.average_accuracy),
        _percent(p.child_average_accuracy),
        _points(p.forward_transfer),
        _points(p.child_forward_transfer),
        _times(p.speed_up),
        _times(p.related_speed_up),
        _times(p.seconds_speed_up),
        " / ".join(f"{100 * share:.0f}" for share in shares if share is not None)
        + (" %" if p.tied is not None else ""),
        f"{100 * p.worst.gain:+.1f} ({p.worst.task})" if p.worst else "",
        f"{p.hits} of {p.expected}" if p.expected else "",
        f"{100 * p.regret:.1f}" if p.regret is not None else "",
        f"{p.bytes_per_task / 1e6:.1f}" if p.bytes_per_task is not None else "",
        f"{p.seconds:,.0f}",
    )


def task_table(summary: Summary, stream: str) -> Table:
    """Test accuracy of the child network of every task under every policy, and what the registry saved."""
    present = {t.policy for t in summary.tasks if t.stream == stream}
    policies = [p.policy for p in summary.policies if p.policy in present]
    most = max((t.seeds for t in summary.tasks if t.stream == stream), default=0)
    found = {(t.step, t.policy): t for t in summary.tasks if t.stream == stream}
    steps = sorted({step for step, _ in found})
    rows = []
    for step in steps:
        named = next(found[step, policy] for policy in policies if (step, policy) in found)
        registry = found.get((step, Policy.REGISTRY))
        rows.append(
            (
                str(step),
                named.task + (" *" if named.related else ""),
                ", ".join(dict.fromkeys(registry.sources)) if registry else "",
                _speed(registry),
                *(_cell(found.get((step, policy)), most) for policy in policies),
            )
        )
    return Table(columns=("step", "task", "source", "speed-up", *policies), rows=tuple(rows), words=3)


def _speed(task: TaskSummary | None) -> str:
    if task is None or task.speed_up is None:
        return "–"
    return f"{task.speed_up:.1f}×" if task.speed_up else "never"


def _cell(task: TaskSummary | None, most: int) -> str:
    """Child network, and the supernet where it is another network; how many seeds where others have more."""
    if task is None:
        return "–"
    child = f"{100 * task.child_test_accuracy:.1f}"
    fewer = f", n = {task.seeds}" if task.seeds < most else ""
    return child + fewer if Policy(task.policy).fixed else f"{child} ({100 * task.test_accuracy:.1f}){fewer}"


def decision_table(run: Run, comparisons: Iterable[Comparison]) -> Table:
    """Each decision of a run with its reason."""
    compared = {c.step: c for c in comparisons if (c.stream, c.policy, c.seed) == (run.stream, run.policy, run.seed)}
    names = {row.version: f"{row.step} {row.task}" for row in run.result.rows if row.version}
    return Table(
        columns=("step", "task", "source", "why", "√OT", "steps", "of them taste", "speed-up", "hit"),
        rows=tuple(_decision_row(row, names, compared.get(row.step)) for row in run.result.rows),
        words=4,
    )


def _decision_row(row: StreamRow, names: dict[str, str], compared: Comparison | None) -> tuple[str, ...]:
    speed, hit = "–", ""
    if compared is not None and compared.cost_ratio is not None:
        speed = "never" if compared.censored else f"{1 / compared.cost_ratio:.1f}×"
    if compared is not None and compared.hit is not None:
        hit = "yes" if compared.hit else f"no, expected {row.expect}"
    if row.error:
        return (str(row.step), row.task, "", f"failed: {row.error}", "", "", "", "", "")
    return (
        str(row.step),
        row.task,
        names.get(row.source, row.source) or "scratch",
        row.reason,
        f"{row.ot_distance:.2f}" if row.ot_distance is not None else "",
        str(row.steps),
        str(row.taste_steps),
        speed,
        hit,
    )


def accumulation_table(summary: Summary) -> Table:
    """Cost of each third of a stream over scratch's."""
    return Table(
        columns=("stream", "policy", "tasks", "first third", "second third", "last third"),
        rows=tuple(
            (a.stream, a.policy, str(len(a.stored)), *("–" if part is None else f"{part:.2f}" for part in a.thirds))
            for a in summary.accumulation
        ),
        words=2,
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _times(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if not interval.value:
        return "not reached by half"
    return f"{interval.value:.1f}× [{interval.low:.1f}, {interval.high:.1f}]"
