"""Names as people type them."""

from __future__ import annotations

import re

from supernet_registry.search.errors import InvalidArgument

__all__ = ["Reference", "job_name", "parse", "supernet_name", "version_name"]

Reference = tuple[str, str]
"""Kind (`supernet`, `version`, `job`, `dataset`) and full resource name."""

_ID = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_PATTERNS = (
    ("version", rf"(?:supernets/)?({_ID})/versions/(\d+|head)", "supernets/{}/versions/{}"),
    ("job", rf"searchJobs/({_ID})", "searchJobs/{}"),
    ("dataset", rf"datasets/({_ID})", "datasets/{}"),
    ("supernet", rf"supernets/({_ID})", "supernets/{}"),
    ("version", rf"({_ID})/v?(\d+|head)", "supernets/{}/versions/{}"),
    ("supernet", rf"({_ID})", "supernets/{}"),
)


def parse(text: str, *, field: str = "resource") -> Reference:
    """What `supernets/x/versions/3`, `x/3`, `x`, `searchJobs/ID` or `datasets/ID` names.

    Raises:
        InvalidArgument: none of them.
    """
    for kind, pattern, name in _PATTERNS:
        match = re.fullmatch(pattern, text.strip())
        if match is not None:
            return kind, name.format(*match.groups())
    raise InvalidArgument(
        f"{text!r} is not a name.",
        remedy="Give a supernet (`x`), a version (`x/3`), a job (`searchJobs/ID`) or a dataset (`datasets/ID`).",
        field=field,
    )


def version_name(text: str, *, field: str = "version") -> str:
    """`supernets/x/versions/3`; a supernet alone stands for its head. Raises InvalidArgument."""
    kind, name = parse(text, field=field)
    if kind == "supernet":
        return f"{name}/versions/head"
    if kind != "version":
        raise InvalidArgument(
            f"{text!r} is not a version.", remedy="Give `x/3`, or `x` for the head of supernet x.", field=field
        )
    return name


def supernet_name(text: str, *, field: str = "name") -> str:
    """`supernets/x`. Raises InvalidArgument."""
    kind, name = parse(text, field=field)
    if kind != "supernet":
        raise InvalidArgument(f"{text!r} is not a supernet.", remedy="Give its id, such as `my-task`.", field=field)
    return name


def job_name(text: str) -> str:
    """`searchJobs/ID` from that or from the id alone. Raises InvalidArgument."""
    name = text.strip()
    name = name if name.startswith("searchJobs/") else f"searchJobs/{name}"
    kind, name = parse(name, field="job") if re.fullmatch(rf"searchJobs/{_ID}", name) else ("", name)
    if kind != "job":
        raise InvalidArgument(f"{text!r} is not a job.", remedy="See `supernet-registry jobs`.", field="job")
    return name
