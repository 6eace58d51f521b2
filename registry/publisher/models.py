"""Supernets as registered models, versions as model versions, the head as the alias `head`."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from supernet_registry.clients.wire.resources import Supernet, SupernetVersion
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.outbox import MlflowVersion
from supernet_registry.registry.publisher.child_models import ARTIFACT_PATH, is_current, log_child
from supernet_registry.registry.publisher.failures import Rejected, is_missing
from supernet_registry.registry.publisher.mapping import (
    LABEL_TAG,
    TAG,
    label_tags,
    milliseconds,
    version_description,
    version_tags,
)
from supernet_registry.registry.publisher.runs import RunPublisher
from supernet_registry.registry.storage import failpoints
from supernet_registry.search.errors import NotFound

__all__ = ["HEAD_ALIAS", "ModelPublisher"]

HEAD_ALIAS = "head"
PAGE_VERSIONS = 1000


class ModelPublisher:
    """Keeps the registered model of a supernet in step with the supernet.

    MLflow's `create_model_version` is not idempotent: what the catalog remembers as published is skipped, and for the
    rest MLflow is searched by our tag before anything is created.
    """

    def __init__(self, client: MlflowClient, catalog: Catalog, runs: RunPublisher, registry_id: str) -> None:
        self._client = client
        self._catalog = catalog
        self._runs = runs
        self._registry_id = registry_id

    def publish(self, supernet_name: str) -> None:
        """Bring the registered model of `supernet_name` up to the supernet's present state, deleted included.

        Raises:
            MlflowException, Rejected: see `failures`; what was published stays, and is not repeated.
        """
        model_name = supernet_name.removeprefix("supernets/")
        try:
            supernet = self._catalog.supernets.get(supernet_name)
        except NotFound:
            self._delete(model_name)
            return
        self._ensure_model(model_name, supernet)
        published = self._catalog.mlflow_links.versions(model_name)
        for version in self._versions(supernet_name):
            if version.name not in published:
                published[version.name] = number = self._find_or_create_version(model_name, version)
                self._catalog.mlflow_links.save_version(
                    MlflowVersion(version=version.name, model_name=model_name, model_version=number)
                )
        self._point_head(model_name, published.get(supernet.head))

    def log_again(self, version: SupernetVersion) -> bool:
        """Log the child network of a published version anew, unless its model is what this release would log.

        Returns whether it was logged. The model version, its number and its aliases stay.

        Raises:
            NotFound: the version has not been published, or MLflow has lost its run.
        """
        model_name = version.name.split("/")[1]
        number = self._catalog.mlflow_links.versions(model_name).get(version.name)
        try:
            found = None if number is None else self._client.get_model_version(model_name, number)
            if found is not None and not is_current(self._client, str(found.run_id)):
                return log_child(self._client, self._catalog, str(found.run_id), version)
        except MlflowException as error:
            if not is_missing(error):
                raise
            found = None
        if found is None:
            raise NotFound(
                f"{version.name} is not in MLflow.",
                remedy="`supernet-registry publish --rebuild` publishes what is missing there.",
                field="versions",
            )
        return False

    def _delete(self, model_name: str) -> None:
        model = self._model(model_name)
        if model is not None and self._is_ours(model):
            self._client.delete_registered_model(model_name)
        self._catalog.mlflow_links.forget_versions(model_name)

    def _model(self, name: str) -> RegisteredModel | None:
        try:
            return self._client.get_registered_model(name)
        except MlflowException as error:
            if is_missing(error):
                return None
            raise

    def _is_ours(self, model: RegisteredModel) -> bool:
        return bool(model.tags.get(f"{TAG}registry") == self._registry_id)

    def _ensure_model(self, name: str, supernet: Supernet) -> None:
        tags = {
            f"{TAG}registry": self._registry_id,
            f"{TAG}supernet": supernet.name,
            f"{TAG}create_time": str(milliseconds(supernet.create_time)),
            f"{TAG}space": "" if supernet.search_space is None else supernet.search_space.id,
        }
        tags |= label_tags(supernet.labels)
        model = self._model(name)
        if model is not None and not self._is_ours(model):
            raise Rejected(
                f"registered model {name!r} belongs to somebody else (tag {TAG}registry is "
                f"{model.tags.get(f'{TAG}registry')!r}); rename it in MLflow, then publish with --rebuild"
            )
        if model is not None and model.tags.get(f"{TAG}create_time") != tags[f"{TAG}create_time"]:
            # A supernet of this name was deleted, and another one created before the deletion was published.
            self._delete(name)
            model = None
        if model is None:
            self._catalog.mlflow_links.forget_versions(name)
            self._client.create_registered_model(name, tags=tags, description=supernet.description)
            return
        if (model.description or "") != supernet.description:
            self._client.update_registered_model(name, supernet.description)
        self._update_tags(name, model.tags, tags)

    def _update_tags(self, name: str, present: dict[str, str], wanted: dict[str, str]) -> None:
        for key, value in wanted.items():
            if present.get(key) != value:
                self._client.set_registered_model_tag(name, key, value)
        for key in present:
            if key.startswith(LABEL_TAG) and key not in wanted:
                self._client.delete_registered_model_tag(name, key)

    def _versions(self, supernet_name: str) -> list[SupernetVersion]:
        """All versions, oldest first: then MLflow's numbers are the registry's."""
        versions: list[SupernetVersion] = []
        token = ""
        while True:
            page, token = self._catalog.supernets.list_versions(
                supernet_name, page_size=PAGE_VERSIONS, page_token=token
            )
            versions += page
            if not token:
                return sorted(versions, key=lambda version: int(version.name.rpartition("/")[2]))

    def _find_or_create_version(self, model_name: str, version: SupernetVersion) -> str:
        found = self._client.search_model_versions(f"name = '{model_name}' and tags.`{TAG}version` = '{version.name}'")
        if found:
            return str(min(int(twin.version) for twin in found))
        run_id = self._runs.run_id(version.job)
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if not is_missing(error):
                raise
            self._runs.publish(version.job)  # the store was replaced: this makes the run anew
            run = self._client.get_run(self._runs.run_id(version.job))
        has_child = log_child(self._client, self._catalog, run.info.run_id, version)
        failpoints.hit("publish.child_logged")
        created = self._client.create_model_version(
            model_name,
            # The child network is what one loads; the supernet's bytes stay in the registry (their digest is a tag).
            # MLflow wants a place inside the run, and looks up `models:/` sources in a process-wide tracking URI
            # instead of this client's.
            source=f"{run.info.artifact_uri}/{ARTIFACT_PATH}" if has_child else run.info.artifact_uri,
            run_id=run.info.run_id,
            tags=version_tags(version),
            description=version_description(version),
        )
        failpoints.hit("publish.version_created")
        return str(created.version)

    def _point_head(self, model_name: str, number: str | None) -> None:
        aliases = self._client.get_registered_model(model_name).aliases
        present = aliases.get(HEAD_ALIAS)
        if number is not None and str(present) != number:
            self._client.set_registered_model_alias(model_name, HEAD_ALIAS, number)
        elif number is None and present is not None:
            self._client.delete_registered_model_alias(model_name, HEAD_ALIAS)
