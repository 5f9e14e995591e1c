"""Open an object store by its URI, with the options that a URI may carry.

``s3://bucket/prefix?endpoint=http://host:port&region=…&storage_class=GLACIER_IR&sse=aws:kms
&kms_key=…``, ``gs://…``, ``az://…``. Credentials come from the clients' own environment variables
and roles, never from a URI.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from components.contract import SpecError

# The client repeats a request itself, so often and so long.
REQUEST_RETRIES = 6
RETRY_SECONDS = 60
# Body and answer together: four files of 64 MiB at once get through a line of 2.2 MB/s.
REQUEST_TIMEOUT_SECONDS = 120
OPTIONS = {"endpoint", "region", "storage_class", "sse", "kms_key"}


def open_store(uri: str) -> tuple[Any, str | None]:
    """Return obstore's client for the prefix that `uri` names, and the storage class it asks for.

    Raises:
        SpecError: an unknown option, or a URI that cannot be opened.
    """
    import obstore.store

    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    unknown = set(options) - OPTIONS
    if unknown:
        raise SpecError(
            f"storage: option {sorted(unknown)[0]!r} of {uri!r} is not known",
            remedy=f"use {', '.join(sorted(OPTIONS))}",
        )
    endpoint = options.get("endpoint")
    if parts.scheme == "s3":
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL")
    config = _config(parts.scheme, options, endpoint)
    client: dict[str, Any] = {
        "timeout": timedelta(seconds=REQUEST_TIMEOUT_SECONDS),
        "connect_timeout": timedelta(seconds=10),
        "allow_http": bool(endpoint and endpoint.startswith("http://")),
    }
    retry: dict[str, Any] = {
        "max_retries": REQUEST_RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    }
    plain = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
    from_url: Any = obstore.store.from_url  # its overloads tell the stores apart by config type
    try:
        store = from_url(plain, config=config or None, client_options=client, retry_config=retry)
    except Exception as error:
        raise SpecError(f"storage: {uri!r} cannot be opened: {first_line(error)}") from error
    return store, options.get("storage_class")


def _config(scheme: str, options: dict[str, str], endpoint: str | None) -> dict[str, Any]:
    """Return a store's settings; what is not named here comes from its own environment."""
    if scheme == "gs":
        return {"base_url": endpoint} if endpoint else {}
    if scheme != "s3":
        return {"endpoint": endpoint} if endpoint else {}
    config: dict[str, Any] = {
        "region": options.get("region") or os.environ.get("AWS_REGION") or "us-east-1"
    }
    if endpoint:
        config["endpoint"] = endpoint
        config["virtual_hosted_style_request"] = False
    if "sse" in options:
        config["server_side_encryption"] = options["sse"]
    if "kms_key" in options:
        config["sse_kms_key_id"] = options["kms_key"]
    return config


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, for a message."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text if len(text) <= 300 else text[:300] + "…"
