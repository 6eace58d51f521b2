"""The taste of a search, for people: who competed, how far each came, and why who was chosen."""

from __future__ import annotations

from supernet_registry.clients.cli import output
from supernet_registry.clients.wire.resources import SourceDecision, TasteResult

__all__ = ["print_tastes"]


def print_tastes(decision: SourceDecision | None) -> None:
    """One line a contender, the chosen one with an asterisk; nothing where nothing was tasted."""
    if decision is None or not decision.tastes:
        return
    output.print_table(
        ["!contender", ">OT", ">steps", ">validation", "verdict"],
        [_row(taste) for taste in decision.tastes],
        title=f"Taste ({decision.taste_steps:,} steps in all, {decision.taste_seconds:.1f} s)",
    )


def _row(taste: TasteResult) -> tuple[str, ...]:
    tried = bool(taste.steps and taste.val_accuracies)
    return (
        (output.short(taste.version) or "scratch") + (" *" if taste.chosen else ""),
        output.number(taste.ot_distance) if taste.version else "",
        str(taste.steps[-1]) if tried else "",
        _from_to(output.percent(taste.val_accuracies[0]), output.percent(taste.val_accuracies[-1])) if tried else "",
        taste.reason,
    )


def _from_to(first: str, last: str) -> str:
    return first if first == last else f"{first} → {last}"
