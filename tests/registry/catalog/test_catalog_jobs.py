"""Search jobs as users see them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from supernet_registry.clients.wire.resources import (
    Executor,
    JobState,
    SearchJob,
    SearchWork,
    SourcePolicy,
    SpaceDescriptor,
    TransferMode,
)
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.spaces import describe_space
from supernet_registry.search.errors import (
    ImagesMissing,
    InvalidArgument,
    InvalidPageToken,
    InvalidSearchSpace,
    JobFinished,
    NotFound,
    RequestIdReused,
    SpaceMismatch,
    SupernetRegistryError,
)
from tests.registry.catalog.catalog_world import OTHER_SPACE, SPACE, World, epoch, new_id, search_spec


def test_a_job_creates_its_supernet_and_says_what_will_be_done(world: World) -> None:
    """Defaults are made explicit, so that a job can be read without knowing this release."""
    job = world.job("supernets/new")
    assert job.state is JobState.QUEUED
    assert (job.stream, job.base_version, job.attempt, job.last_sequence) == ("default", "", 0, 1)
    assert job.spec is not None
    assert job.spec.search == SearchWork(source_policy=SourcePolicy.AUTO, transfer_mode=TransferMode.WEIGHTS_AND_ALPHAS)
    assert job.spec.executor is Executor.POOL
    supernet = world.catalog.supernets.get("supernets/new")
    assert supernet.search_space == job.spec.search_space == describe_space(SPACE)
    assert (supernet.head, supernet.version_count) == ("", 0)
    assert [event.state for event in world.catalog.jobs.events(job.name)] == [JobState.QUEUED]


def test_a_job_without_a_space_takes_its_supernets(world: World) -> None:
    world.version("supernets/a")
    job = world.job("supernets/a", seed=1, search_space=None)
    assert job.spec is not None
    assert job.spec.search_space == describe_space(SPACE)
    assert job.base_version == "supernets/a/versions/1"


def test_sixteen_twins_of_one_request_make_one_job(world: World) -> None:
    """AIP-155 under concurrency: same id and body, same job."""
    draft, request_id = world.job_draft(), new_id()
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: world.catalog.jobs.create(draft, request_id=request_id).name, range(16)))
    assert len(set(made)) == 1
    assert [job.name for job in world.catalog.jobs.list()[0]] == made[:1]


def test_sixteen_different_jobs_for_one_new_supernet_make_one_supernet(world: World) -> None:
    draft = world.job_draft()
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda i: world.catalog.jobs.create(replace(draft, stream_step=i)).name, range(16)))
    assert len(set(made)) == 16
    assert len(world.catalog.supernets.list()[0]) == 1


def test_a_repeated_request_answers_with_the_jobs_present_state_also_after_a_restart(
    world: World, open_catalog: Callable[..., Catalog]
) -> None:
    draft, request_id = world.job_draft(), new_id()
    first = world.catalog.jobs.create(draft, request_id=request_id)
    world.lease(first)
    again = open_catalog().jobs.create(replace(draft, state=JobState.FAILED), request_id=request_id.upper())
    assert again.name == first.name
    assert again.state is JobState.RUNNING


def test_a_request_id_with_another_body_is_refused(world: World) -> None:
    draft, request_id = world.job_draft(), new_id()
    job = world.catalog.jobs.create(draft, request_id=request_id)
    with pytest.raises(RequestIdReused) as caught:
        world.catalog.jobs.create(replace(draft, stream="other"), request_id=request_id)
    assert caught.value.metadata["resource"] == job.name
    with pytest.raises(InvalidArgument, match="UUID"):
        world.catalog.jobs.create(draft, request_id="yesterday's")


def test_validate_only_checks_everything_and_writes_nothing(world: World) -> None:
    draft, request_id = world.job_draft("supernets/new"), new_id()
    preview = world.catalog.jobs.create(draft, request_id=request_id, validate_only=True)
    assert (preview.name, preview.state) == ("", JobState.QUEUED)
    assert world.catalog.jobs.list() == ([], "")
    assert world.catalog.supernets.list() == ([], "")
    with pytest.raises(NotFound):
        world.catalog.jobs.create(replace(draft, dataset=f"datasets/{'0' * 32}"), validate_only=True)
    assert world.catalog.jobs.create(draft, request_id=request_id).name


def _spec(**values: object) -> Callable[[SearchJob], SearchJob]:
    def change(job: SearchJob) -> SearchJob:
        assert job.spec is not None
        return replace(job, spec=replace(job.spec, **values))  # type: ignore[arg-type]

    return change


def _work(**values: object) -> Callable[[SearchJob], SearchJob]:
    return _spec(search=SearchWork(**values))  # type: ignore[arg-type]


def _recipe(**values: str) -> Callable[[SearchJob], SearchJob]:
    return _spec(recipe=values)


BAD_JOBS: list[tuple[str, type[SupernetRegistryError], Callable[[SearchJob], SearchJob]]] = [
    ("search_job.supernet", InvalidArgument, lambda job: replace(job, supernet="supernets/Ä")),
    ("search_job.supernet", InvalidArgument, lambda job: replace(job, supernet="supernets/../etc")),
    ("search_job.supernet", InvalidArgument, lambda job: replace(job, supernet="supernets/" + "a" * 64)),
    ("search_job.dataset", InvalidArgument, lambda job: replace(job, dataset="")),
    ("search_job.dataset", NotFound, lambda job: replace(job, dataset=f"datasets/{'0' * 32}")),
    ("search_job.stream", InvalidArgument, lambda job: replace(job, stream="a\0b")),
    ("search_job.stream", InvalidArgument, lambda job: replace(job, stream="x" * 201)),
    ("search_job.stream_step", InvalidArgument, lambda job: replace(job, stream_step=-1)),
    ("search_job.labels", InvalidArgument, lambda job: replace(job, labels={"": "x"})),
    ("search_job.labels.a", InvalidArgument, lambda job: replace(job, labels={"a": "x" * 501})),
    ("search_job.spec.seed", InvalidArgument, _spec(seed=-1)),
    ("search_job.spec.work", InvalidArgument, _spec(search=None)),
    ("search_job.spec.recipe.epochs", InvalidArgument, _recipe(epochs="-1")),
    ("search_job.spec.recipe.batch_size", InvalidArgument, _recipe(batch_size="1000000")),
    ("search_job.spec.recipe.child_epochs", InvalidArgument, _recipe(child_epochs="-2")),
    ("search_job.spec.recipe.taste_share", InvalidArgument, _recipe(taste_share="1.5")),
    ("search_job.spec.recipe.taste_share", InvalidArgument, _recipe(taste_share="nan")),
    ("search_job.spec.recipe.drop_shares", InvalidArgument, _recipe(drop_shares="0.5, 1.5")),
    ("search_job.spec.recipe.drop_shares", InvalidArgument, _recipe(drop_shares="nan")),
    ("search_job.spec.recipe.drop_shares", InvalidArgument, _recipe(drop_shares=",".join(["0.5"] * 300))),
    ("search_job.spec.recipe.variant", InvalidArgument, _recipe(variant="pc-darts")),
    ("search_job.spec.recipe.variant", InvalidArgument, _recipe(variant="nas-net")),
    ("search_job.spec.recipe.derivation", InvalidArgument, _recipe(derivation="guess")),
    ("search_job.spec.recipe.learning_rat", InvalidArgument, _recipe(learning_rat="0.1")),
    ("search_job.spec.recipe.learning_rate", InvalidArgument, _recipe(learning_rate="fast")),
    ("search_job.spec.recipe.momentum", InvalidArgument, _recipe(momentum="2")),
    ("search_job.spec.recipe", InvalidArgument, _recipe(**{f"setting_{i}": "1" for i in range(201)})),
    ("search_job.spec.search.source_version", InvalidArgument, _work(source_policy=SourcePolicy.VERSION)),
    ("search_job.spec.search.source_version", InvalidArgument, _work(source_version="supernets/b/versions/1")),
    (
        "search_job.spec.search.source_version",
        InvalidArgument,
        _work(source_policy=SourcePolicy.VERSION, source_version="supernets/b/versions/0"),
    ),
    (
        "search_job.spec.search.source_version",
        NotFound,
        _work(source_policy=SourcePolicy.VERSION, source_version="supernets/b/versions/1"),
    ),
    ("search_job.spec.search.transfer_mode", InvalidArgument, _work(transfer_mode=TransferMode.SCRATCH)),
    (
        "search_job.spec.search_space.family",
        InvalidSearchSpace,
        _spec(search_space=SpaceDescriptor(family="nonsense")),
    ),
]


@pytest.mark.parametrize(("field", "error", "change"), BAD_JOBS)
def test_a_bad_job_is_refused_with_the_field_and_nothing_is_written(
    world: World, field: str, error: type[SupernetRegistryError], change: Callable[[SearchJob], SearchJob]
) -> None:
    with pytest.raises(error) as caught:
        world.catalog.jobs.create(change(world.job_draft()))
    assert caught.value.field == field
    assert caught.value.remedy
    assert world.catalog.jobs.list() == ([], "")
    assert world.catalog.supernets.list() == ([], "")


def test_a_variant_and_dropped_operations_are_kept_with_the_job(world: World) -> None:
    space = SpaceDescriptor(channels=8, partial_channels=4)
    recipe = {"variant": "pc-darts", "drop_shares": "0.3,0.6"}
    draft = world.job_draft("supernets/partial", search_space=space, recipe=recipe)
    spec = world.catalog.jobs.get(world.catalog.jobs.create(draft).name).spec
    assert spec is not None
    assert spec.search_space is not None
    assert (spec.recipe, spec.search_space.partial_channels) == (recipe, 4)


def test_a_pool_job_needs_images_and_a_callers_job_does_not(world: World) -> None:
    dataset = world.dataset(with_images=False)
    draft = SearchJob(supernet="supernets/a", dataset=dataset.name, spec=search_spec())
    with pytest.raises(ImagesMissing):
        world.catalog.jobs.create(draft)
    assert world.catalog.jobs.create(replace(draft, spec=search_spec(executor=Executor.CALLER))).name


def test_spaces_must_agree_between_job_supernet_and_source(world: World) -> None:
    version = world.version("supernets/a")
    other = describe_space(OTHER_SPACE)
    with pytest.raises(SpaceMismatch) as caught:
        world.job("supernets/a", search_space=other)
    assert caught.value.field == "search_job.spec.search_space"
    with pytest.raises(SpaceMismatch) as caught:
        world.job("supernets/b", search_space=other, source_policy=SourcePolicy.VERSION, source_version=version.name)
    assert caught.value.field == "search_job.spec.search.source_version"


def test_head_as_source_becomes_the_version_that_it_is_now(world: World) -> None:
    world.version("supernets/a")
    job = world.job("supernets/b", source_policy=SourcePolicy.VERSION, source_version="supernets/a/versions/head")
    assert job.spec is not None
    assert job.spec.source_version == "supernets/a/versions/1"


def test_cancel_ends_a_queued_job_at_once_and_asks_a_running_one(world: World) -> None:
    queued, running = world.job(), world.job()
    lease, _ = world.lease(running)
    assert world.catalog.jobs.cancel(queued.name).state is JobState.CANCELLED
    assert world.catalog.jobs.cancel(running.name).state is JobState.CANCELLING
    assert world.catalog.jobs.cancel(running.name).last_sequence == 3  # asking twice changes nothing
    assert world.catalog.leases.renew(running.name, lease.fence)[1]


def test_a_finished_job_cannot_be_cancelled(world: World) -> None:
    job = world.job()
    world.finish(job)
    with pytest.raises(JobFinished):
        world.catalog.jobs.cancel(job.name)


def test_events_can_be_read_on_from_any_sequence(world: World) -> None:
    job = world.job()
    lease, _ = world.lease(job)
    world.catalog.leases.report(job.name, lease.fence, [epoch(i) for i in range(5)])
    events = world.catalog.jobs.events(job.name)
    assert [event.sequence for event in events] == list(range(1, 8))
    assert world.catalog.jobs.events(job.name, after_sequence=3) == events[3:]
    assert world.catalog.jobs.events(job.name, after_sequence=3, limit=2) == events[3:5]


def test_lists_run_newest_first_by_pages_and_filters(world: World) -> None:
    draft = world.job_draft()
    names = [world.catalog.jobs.create(replace(draft, stream=f"s{i % 2}")).name for i in range(7)]
    world.catalog.jobs.cancel(names[0])
    first, token = world.catalog.jobs.list(page_size=3)
    world.catalog.jobs.create(draft)  # does not shift the pages that follow
    second, token = world.catalog.jobs.list(page_size=3, page_token=token)
    third, end = world.catalog.jobs.list(page_size=3, page_token=token)
    assert [job.name for job in first + second + third] == names[::-1]
    assert end == ""
    assert [job.name for job in world.catalog.jobs.list(stream="s1")[0]] == names[5::-2]
    assert [job.name for job in world.catalog.jobs.list(state=JobState.CANCELLED)[0]] == names[:1]


def test_a_page_token_is_good_for_its_own_query_only(world: World) -> None:
    for _ in range(3):
        world.job()
    token = world.catalog.jobs.list(page_size=1)[1]
    for bad in (token[:-1], "x" + token, "%%%", "ä", token + "A"):
        with pytest.raises(InvalidPageToken):
            world.catalog.jobs.list(page_token=bad)
    with pytest.raises(InvalidPageToken):
        world.catalog.jobs.list(page_token=token, stream="other")
    with pytest.raises(InvalidPageToken):
        world.catalog.datasets.list(page_token=token)
    with pytest.raises(InvalidArgument):
        world.catalog.jobs.list(page_size=-1)
    assert len(world.catalog.jobs.list(page_size=10**6)[0]) == 3


@pytest.mark.parametrize("name", ["searchJobs/nonsense", "searchJobs/", "", "searchJobs/" + "A" * 16])
def test_malformed_and_unknown_names_are_told_apart(world: World, name: str) -> None:
    with pytest.raises(InvalidArgument):
        world.catalog.jobs.get(name)
    with pytest.raises(NotFound):
        world.catalog.jobs.get("searchJobs/0123456789abcdef")
