"""A setting is said once: a line in the recipe is enough for client, command line, wire, MLflow and documents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

PROGRAM = '''
import json, sys
from dataclasses import dataclass, replace
from supernet_registry.search import recipe as package
from supernet_registry.search.recipe import recipe as module
from supernet_registry.search.recipe.fields import setting

@dataclass(frozen=True, slots=True, kw_only=True)
class More(package.Recipe):
    """The recipe with the one line that a change would add."""

    sparkle: float = setting(0.25, "how much it sparkles", low=0.0, high=2.0)

package.Recipe = module.Recipe = More

from supernet_registry.clients.wire.options import SearchOptions, check_options
from supernet_registry.clients.prepare import search_spec
from supernet_registry.clients.wire.convert import from_proto, to_proto
from supernet_registry.clients.wire.resources import SearchJob, SearchSpec
from supernet_registry.registry.catalog.kinds import kind_of
from supernet_registry.registry.publisher.mapping import job_params
from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.recipe.settings import apply_settings
from supernet_registry.v1.searches_pb2 import SearchSpec as SpecMessage
from docs.tools.settings_pages import settings

def refused(call):
    try:
        call()
    except InvalidArgument as error:
        return [error.field, error.message, error.remedy]

spec = search_spec({"recipe": {"sparkle": 1.5}})                                  # client
spec = from_proto(SpecMessage.FromString(to_proto(spec, SpecMessage).SerializeToString()), SearchSpec)    # wire
job = SearchJob(supernet="supernets/a", dataset="datasets/" + "0" * 32, spec=spec)
draft = kind_of(spec).check(job)                                                  # server
wrong = search_spec({"recipe": {"sparkle": 3}})
found = {
    "keyword": refused(lambda: check_options({"sparkle": 1.5}, SearchOptions)),
    "server": draft.spec.recipe,
    "refused": refused(lambda: kind_of(wrong).check(replace(job, spec=wrong))),
    "worker": apply_settings(package.Recipe(), draft.spec.recipe).sparkle,
    "mlflow": {param.key: param.value for param in job_params(draft)}.get("recipe.sparkle"),
    "documents": [line for line in settings().splitlines() if "sparkle" in line],
}
from supernet_registry.clients.cli import app, run                                # command line, last: it prints
print(json.dumps(found), flush=True)
sys.exit(run(app, ["search", "--help"]))
'''


def test_a_line_in_the_recipe_reaches_everything() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    found, _, helped = result.stdout.partition("\n")
    seen = json.loads(found)
    assert seen["keyword"][2] == 'It is a field of the recipe: give recipe={"sparkle": ...}.'
    assert seen["server"] == {"sparkle": "1.5"}
    assert seen["refused"][0] == "search_job.spec.recipe.sparkle"
    assert "between 0.0 and 2.0" in seen["refused"][1]
    assert (seen["worker"], seen["mlflow"]) == (1.5, "1.5")
    assert len(seen["documents"]) == 1
    assert "how much it sparkles" in seen["documents"][0].lower()
    assert "sparkle=0.25 - how much it sparkles (between 0.0 and 2.0)" in helped
