"""The few KFP API calls that suanli makes, with errors a person can act on.

Each call needs one right in the run's namespace; `PERMISSIONS` lists them, errors name them, and
`manifests/base/role-submit.yaml` grants exactly them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.contract import SpecError, StepError

# Where Kubernetes projects a token with KFP's audience (the rendered Job mounts it there).
TOKEN_PATH = Path("/var/run/secrets/kubeflow/pipelines/token")
TOKEN_PATH_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # the variable that the KFP SDK reads too
TIMEOUT_S = 60.0
PAGE_SIZE = 100

# API call -> (resource, verb) that the KFP API server checks for it (backend 2.17,
# backend/src/apiserver/server/*_server.go). The health check needs no right.
PERMISSIONS = {
    "experiment_service_list_experiments": ("experiments", "list"),
    "experiment_service_create_experiment": ("experiments", "create"),
    "pipeline_service_get_pipeline_by_name": ("pipelines", "get"),
    "pipeline_service_list_pipeline_versions": ("pipelines", "list"),
    "upload_pipeline": ("pipelines", "create"),
    "upload_pipeline_version": ("pipelines", "create"),
    "run_service_create_run": ("runs", "create"),
    "run_service_get_run": ("runs", "get"),
    "run_service_list_runs": ("runs", "list"),
    "run_service_terminate_run": ("runs", "terminate"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Which KFP server, as whom.

    `namespace` is the user's namespace on a multi-user server; a single-user server ignores it.
    `token_path` holds a bearer token that its owner may rotate (read again for each call).
    """

    host: str
    namespace: str
    token_path: Path | None = None
    ca_file: Path | None = None


class KfpServer:
    """A KFP API server that answered its health check.

    Raises (every method):
        SpecError: address, token or rights are wrong, or the server is not KFP 2.
        StepError: the server is down or failed.
    """

    def __init__(self, connection: Connection) -> None:
        import kfp_server_api

        self._where = connection
        api_client = kfp_server_api.ApiClient(_configuration(connection))
        self._experiments = kfp_server_api.ExperimentServiceApi(api_client)
        self._pipelines = kfp_server_api.PipelineServiceApi(api_client)
        self._uploads = kfp_server_api.PipelineUploadServiceApi(api_client)
        self._runs = kfp_server_api.RunServiceApi(api_client)
        health = kfp_server_api.HealthzServiceApi(api_client)
        answer = self._call(health.healthz_service_get_healthz)
        if not hasattr(answer, "multi_user"):
            raise self._nonsense(answer)
        # A single-user server refuses any namespace.
        self.namespace = connection.namespace if answer.multi_user else None

    def experiment_id(self, name: str) -> str:
        """Return the id of the experiment called `name`, made if absent."""
        found = self._call(
            self._experiments.experiment_service_list_experiments,
            filter=_equals("display_name", name),
            **self._in_namespace(),
        ).experiments
        if found:
            return str(found[0].experiment_id)
        from kfp_server_api import V2beta1Experiment

        body = V2beta1Experiment(display_name=name, namespace=self.namespace)
        made = self._call(self._experiments.experiment_service_create_experiment, body)
        return self._text(made.experiment_id)

    def pipeline_version(self, name: str, version: str, file: Path) -> tuple[str, str]:
        """Return (pipeline id, version id), uploading `file` only when the version is absent."""
        pipeline_id = self._pipeline_id(name, file)
        found = self._call(
            self._pipelines.pipeline_service_list_pipeline_versions,
            pipeline_id,
            filter=_equals("display_name", version),
        ).pipeline_versions
        if found:
            return pipeline_id, str(found[0].pipeline_version_id)
        made = self._call(
            self._uploads.upload_pipeline_version, str(file), name=version, pipelineid=pipeline_id
        )
        return pipeline_id, self._text(made.pipeline_version_id)

    def _pipeline_id(self, name: str, file: Path) -> str:
        try:
            found = self._call(
                self._pipelines.pipeline_service_get_pipeline_by_name, name, **self._in_namespace()
            )
        except NotFoundError:
            pass
        else:
            return self._text(found.pipeline_id)
        made = self._call(
            self._uploads.upload_pipeline, str(file), name=name, **self._in_namespace()
        )
        return self._text(made.pipeline_id)

    def create_run(
        self,
        *,
        name: str,
        description: str,
        experiment_id: str,
        pipeline: tuple[str, str],
        parameters: dict[str, Any],
        service_account: str | None,
    ) -> Any:
        """Start a run of an uploaded pipeline version and return it."""
        import kfp_server_api as api

        reference = api.V2beta1PipelineVersionReference(
            pipeline_id=pipeline[0], pipeline_version_id=pipeline[1]
        )
        run = api.V2beta1Run(
            display_name=name,
            description=description,
            experiment_id=experiment_id,
            pipeline_version_reference=reference,
            runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
            service_account=service_account,
        )
        made = self._call(self._runs.run_service_create_run, run)
        self._text(made.run_id)
        return made

    def run(self, run_id: str) -> Any:
        """Return the run."""
        return self._call(self._runs.run_service_get_run, run_id)

    def runs(self, *, experiment_id: str | None = None, name: str | None = None) -> list[Any]:
        """Return runs, newest first; at most `PAGE_SIZE`."""
        where = {"experiment_id": experiment_id} if experiment_id else self._in_namespace()
        if name:
            where["filter"] = _equals("display_name", name)
        answer = self._call(
            self._runs.run_service_list_runs,
            page_size=PAGE_SIZE,
            sort_by="created_at desc",
            **where,
        )
        return list(answer.runs or [])

    def terminate(self, run_id: str) -> None:
        """Ask the server to stop the run's pods."""
        self._call(self._runs.run_service_terminate_run, run_id)

    # -- errors ----------------------------------------------------------------------------------

    def _in_namespace(self) -> dict[str, Any]:
        return {"namespace": self.namespace} if self.namespace else {}

    def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        import urllib3
        from kfp_server_api import ApiException
        from kfp_server_api.exceptions import ApiTypeError, ApiValueError

        host = self._where.host
        try:
            answer = method(*arguments, **options, _request_timeout=TIMEOUT_S)
        except ApiException as error:
            raise self._refusal(method.__name__, error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise StepError(
                f"no KFP server answers at {host}: {reason}",
                remedy="check --host, or forward it: kubectl -n kubeflow port-forward "
                "svc/ml-pipeline 8888",
            ) from None
        except (ValueError, TypeError, AttributeError, ApiTypeError, ApiValueError) as error:
            raise self._nonsense(error) from None
        if answer is None or isinstance(answer, str):
            if method.__name__ == "run_service_terminate_run":
                return answer
            raise self._nonsense(answer)
        return answer

    def _refusal(self, call: str, error: Any) -> SpecError | StepError:
        host, status = self._where.host, error.status
        resource, verb = PERMISSIONS.get(call, ("healthz", "get"))
        message = _server_message(error.body)
        if status in (401, 403) or "not authorized" in message or "Unauthenticated" in message:
            return SpecError(
                f"{host} refuses {verb} on {resource}.pipelines.kubeflow.org in namespace "
                f"{self._where.namespace} ({status}): {message}",
                remedy=f"grant the verb {verb} on {resource} to this account "
                "(manifests/base/role-submit.yaml), or give a valid token",
            )
        if status == 404:
            if call == "healthz_service_get_healthz":
                return SpecError(
                    f"{host} has no /apis/v2beta1: not a KFP server, or one older than 2.0",
                    remedy="give the address of ml-pipeline of KFP 2.15 or newer",
                )
            return NotFoundError(f"{host}: {message}", remedy="check name, run id and namespace")
        if status == 400:
            return SpecError(f"{host} rejects {call}: {message}", remedy="see the message")
        return StepError(f"{host} failed with {status} at {call}: {message}", remedy="try again")

    def _nonsense(self, answer: Any) -> SpecError:
        text = " ".join(str(answer).split())[:120]
        return SpecError(
            f"{self._where.host} does not answer as a KFP API server: {text!r}",
            remedy="give the API's address, not the UI's login page",
        )

    def _text(self, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise self._nonsense(value)
        return value


class NotFoundError(SpecError):
    """The server knows no such object."""


def _configuration(where: Connection) -> Any:
    import kfp_server_api

    parts = urlsplit(where.host)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SpecError(
            f"--host {where.host!r} is not a URL",
            remedy="write http://ml-pipeline.kubeflow:8888 or https://…",
        )
    configuration = kfp_server_api.Configuration(host=where.host.rstrip("/"))
    if where.ca_file:
        configuration.ssl_ca_cert = str(where.ca_file)
    path = _token_path(where)
    if path:

        def refresh(current: Any) -> None:
            current.api_key["authorization"] = _read_token(path)

        configuration.api_key_prefix["authorization"] = "Bearer"
        configuration.refresh_api_key_hook = refresh
        refresh(configuration)
    return configuration


def _token_path(where: Connection) -> Path | None:
    if where.token_path:
        return where.token_path
    named = os.environ.get(TOKEN_PATH_VARIABLE)
    if named:
        return Path(named)
    return TOKEN_PATH if TOKEN_PATH.exists() else None


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SpecError(
            f"token file {path}: {error.strerror}",
            remedy="project a service account token with audience pipelines.kubeflow.org there",
        ) from None


def _equals(key: str, value: str) -> str:
    predicate = {"operation": "EQUALS", "key": key, "stringValue": value}
    return json.dumps({"predicates": [predicate]})


def _server_message(body: Any) -> str:
    """The human part of a KFP error; bodies are JSON, or HTML when a proxy answers."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        document = json.loads(text)
        text = document.get("message") or document.get("error_message") or text
    except (ValueError, AttributeError):
        pass
    return " ".join(str(text).split())[:300]
