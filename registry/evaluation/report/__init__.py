"""The report of an evaluation: one HTML page that needs nothing else, and the same tables as Markdown."""

from supernet_registry.registry.evaluation.report.page import write_report

__all__ = ["write_report"]
