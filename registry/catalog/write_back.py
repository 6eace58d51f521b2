"""Write-back of a finished search. (Signatures first; bodies follow.)"""

from __future__ import annotations

from clients.resources import SupernetVersion


class WriteBack:
    """The one way by which versions come into being."""

    def complete(self, job: str, fence: int, draft: SupernetVersion) -> tuple[SupernetVersion, bool]:
        """(version, head_moved); repeated with the same fence after success: the same answer."""
        raise NotImplementedError
