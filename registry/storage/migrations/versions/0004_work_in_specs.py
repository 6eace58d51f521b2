"""A job's spec names its kind of work, and has the recipe's settings in one map.

Rows of earlier releases have a field for each of eleven settings, enums for variant and derivation, and what is now a
kind's own beside what is common. Figures that were 0 for "not measured" need nothing: protobuf's JSON never had them.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_NUMBERS = ("epochs", "patience", "batch_size", "taste_share", "taste_candidates", "derivation_steps")
_BATCH = 500


def upgrade() -> None:
    jobs = sa.table("jobs", sa.column("row_id", sa.BigInteger), sa.column("spec", sa.JSON))
    connection = op.get_bind()
    last = -1
    while True:
        query = sa.select(jobs.c.row_id, jobs.c.spec).where(jobs.c.row_id > last).order_by(jobs.c.row_id).limit(_BATCH)
        rows = connection.execute(query).all()
        if not rows:
            return
        for row in rows:
            connection.execute(jobs.update().where(jobs.c.row_id == row.row_id).values(spec=with_work(row.spec)))
        last = rows[-1].row_id


def with_work(old: dict[str, Any]) -> dict[str, Any]:
    """A spec as revision 0003 stored it, as this one does."""
    new: dict[str, Any] = {name: old[name] for name in ("search_space", "seed", "executor") if name in old}
    recipe = {name: json.dumps(old[name]) for name in _NUMBERS if old.get(name)}
    if old.get("child_epochs"):
        recipe["child_epochs"] = str(max(0, old["child_epochs"]))  # negative: no child network
    if old.get("child_holds_out"):
        recipe["child_holds_out"] = "true"
    if old.get("drop_shares"):
        recipe["drop_shares"] = ",".join(json.dumps(share) for share in old["drop_shares"])
    for key, default in (("variant", "darts"), ("derivation", "")):
        name = old.get(key, "").removeprefix(f"{key.upper()}_").lower().replace("_", "-")
        if name not in ("", "unspecified", default):
            recipe[key] = name
    recipe |= old.get("recipe", {})
    if recipe:
        new["recipe"] = recipe
    if old.get("datasets"):
        work: dict[str, Any] = {"datasets": old["datasets"]}
        if old.get("source_version"):
            work["base_version"] = old["source_version"]
        if old.get("without_replay"):
            work["without_replay"] = True
        return {**new, "generalist": work}
    work = {name: old[name] for name in ("source_policy", "source_version", "transfer_mode") if name in old}
    return {**new, "search": work}
