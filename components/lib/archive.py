"""Bring objects back from S3 archive classes (Glacier Flexible Retrieval, Deep Archive).

obstore has no restore request, so this asks through boto3, which only this needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from components.contract import SpecError, StepError

ARCHIVE_CLASSES = ("GLACIER", "DEEP_ARCHIVE")
# Classes that bill every byte read, or cannot be read at once.
BILLED_READS = ("STANDARD_IA", "ONEZONE_IA", "GLACIER_IR", *ARCHIVE_CLASSES)
# AWS documentation, "Archive retrieval options": standard retrievals.
RESTORE_HOURS = {"GLACIER": 5.0, "DEEP_ARCHIVE": 12.0}


def needs_restore(uri: str) -> bool:
    """True when objects written to this tier must be restored before they can be read."""
    return _storage_class(uri) in ARCHIVE_CLASSES


def bills_reads(uri: str) -> bool:
    """True when reading a tier back, only to compare it, would cost money or take hours."""
    return _storage_class(uri) in BILLED_READS


def _storage_class(uri: str) -> str | None:
    return dict(parse_qsl(urlsplit(uri).query)).get("storage_class")


def restore_objects(
    uri: str,
    keys: list[str],
    *,
    days: int = 7,
    poll_seconds: float = 60.0,
    timeout_seconds: float = 48 * 3600.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Ask for every object below the tier `uri` to be restored and wait until all are readable.

    Args:
        days: how long the restored copies stay.
        on_progress: called with the number readable and the total.

    Raises:
        SpecError: boto3 is not installed.
        StepError: not all are readable after `timeout_seconds`; asking again goes on waiting.
    """
    client, bucket, prefix = _client(uri)
    pending = {key for key in keys if not _ask(client, bucket, prefix + key, days)}
    deadline = time.monotonic() + timeout_seconds
    while True:
        pending = {key for key in pending if not _readable(client, bucket, prefix + key)}
        on_progress(len(keys) - len(pending), len(keys))
        if not pending:
            return
        if time.monotonic() >= deadline:
            raise StepError(
                f"{uri}: {len(pending)} of {len(keys)} objects are still being restored",
                remedy="run suanli tier restore again; requests already made keep running",
            )
        wait(poll_seconds)


def _ask(client: Any, bucket: str, key: str, days: int) -> bool:
    """Request the restore; return True when the object is readable as it is."""
    from botocore.exceptions import ClientError

    head = client.head_object(Bucket=bucket, Key=key)
    if head.get("StorageClass") not in ARCHIVE_CLASSES:
        return True
    try:
        client.restore_object(Bucket=bucket, Key=key, RestoreRequest={"Days": days})
    except ClientError as error:
        if error.response["Error"]["Code"] != "RestoreAlreadyInProgress":
            raise StepError(f"s3://{bucket}/{key}: restore is refused: {error}") from error
    return False


def _readable(client: Any, bucket: str, key: str) -> bool:
    head = client.head_object(Bucket=bucket, Key=key)
    archived = head.get("StorageClass") in ARCHIVE_CLASSES
    return not archived or 'ongoing-request="false"' in head.get("Restore", "")


def _client(uri: str) -> tuple[Any, str, str]:
    try:
        import boto3
    except ImportError as error:
        raise SpecError(
            "restoring from an S3 archive class needs boto3", remedy="pip install boto3"
        ) from error
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    client = boto3.client(
        "s3", endpoint_url=options.get("endpoint"), region_name=options.get("region")
    )
    prefix = parts.path.strip("/")
    return client, parts.netloc, f"{prefix}/" if prefix else ""
