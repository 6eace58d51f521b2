"""Settings: arguments first, then the environment, then defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from supernet_registry import registry
from supernet_registry.registry.settings import Settings
from supernet_registry.search.errors import InvalidArgument


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUPERNET_REGISTRY_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SUPERNET_REGISTRY_LEASE_SECONDS", "7")
    settings = Settings(lease_seconds=8)
    assert (settings.data_dir, settings.lease_seconds) == (tmp_path, 8.0)
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/registry.sqlite"
    assert Settings(database_url="postgresql://host/name").resolved_database_url == "postgresql://host/name"


@pytest.mark.parametrize(
    "values", [{"lease_seconds": 0}, {"tie_band": 1.5}, {"shortlist_size": 257}, {"unknown_option": 1}]
)
def test_values_out_of_range_and_unknown_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**values)  # type: ignore[arg-type]


def test_tls_needs_both_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="TLS"):
        Settings(tls_certificate=tmp_path / "cert.pem")


def test_every_option_is_read_somewhere_and_explained() -> None:
    """No option that nobody reads."""
    folder = Path(registry.__file__).parent
    source = "\n".join(path.read_text() for path in folder.rglob("*.py") if path.name != "settings.py")
    own = (folder / "settings.py").read_text()
    for name in Settings.model_fields:
        used_through = {"database_url": "resolved_database_url", "data_dir": "data_dir"}.get(name, name)
        assert re.search(rf"\.{used_through}\b", source), f"nobody reads {name}"
        assert re.search(rf'^    {name}: .*\n    """', own, re.MULTILINE), f"{name} is not explained"
