"""Supernets, versions, lineage. (Signatures first; bodies follow.)"""

from __future__ import annotations

from collections.abc import Mapping

from clients.resources import Lineage, Supernet, SupernetVersion


class Supernets:
    """Supernets and their immutable versions."""

    def create(self, supernet_id: str, supernet: Supernet, *, request_id: str = "") -> Supernet:
        raise NotImplementedError

    def get(self, name: str) -> Supernet:
        raise NotImplementedError

    def list(self, *, page_size: int = 0, page_token: str = "") -> tuple[list[Supernet], str]:
        raise NotImplementedError

    def update(
        self, name: str, *, etag: str = "", description: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Supernet:
        """Labels are merged; one with an empty value is removed."""
        raise NotImplementedError

    def delete(self, name: str, *, etag: str) -> None:
        raise NotImplementedError

    def rollback(self, name: str, version: str, *, etag: str) -> Supernet:
        raise NotImplementedError

    def get_version(self, name: str) -> SupernetVersion:
        """`supernets/{id}/versions/{n}` or `.../head`."""
        raise NotImplementedError

    def list_versions(
        self, parent: str = "supernets/-", *, page_size: int = 0, page_token: str = ""
    ) -> "tuple[list[SupernetVersion], str]":
        raise NotImplementedError

    def lineage(self, name: str, *, depth: int = 0) -> Lineage:
        raise NotImplementedError
