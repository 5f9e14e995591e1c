"""The commands that tend what runs leave and plans need: tier, catalog and calibrate."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

AddCommand = Callable[..., argparse.ArgumentParser]
DEFAULT_WORKDIR = Path("runs")
MIB = 1 << 20
# On-demand prices of the large clouds change a few times a year.
STALE_DAYS = 180


def add_commands(
    commands: Any, command: AddCommand, write_text: Callable[[Path, str], None]
) -> None:
    """Add the three commands to the command line's parser."""
    _add_calibrate(commands, command, write_text)
    _add_tier(commands, command)
    _add_catalog(commands, command, write_text)


# -- tier ----------------------------------------------------------------------------------------


def _add_tier(commands: Any, command: AddCommand) -> None:
    tier = command(commands, "tier", _tier_status, "the storage tiers by hand")
    verbs = tier.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
        parser.set_defaults(command=function)
        parser.add_argument(
            "spec", type=Path, nargs="?", help="whose tiers; default: the work folder's"
        )
        parser.add_argument("--workdir", type=Path, default=DEFAULT_WORKDIR, metavar="DIR")
        return parser

    status = verb("status", _tier_status, "where everything is and what it costs a month")
    status.add_argument("--json", action="store_true")
    sweep = verb("sweep", _tier_sweep, "move artifacts to the tier that costs least")
    sweep.add_argument(
        "--yes", action="store_true", help="do it; without, only say what would move"
    )
    restore = verb("restore", _tier_restore, "make an artifact readable on a tier")
    what = restore.add_mutually_exclusive_group(required=True)
    what.add_argument("--uri", metavar="artifact://KIND/SHA256")
    what.add_argument("--run", type=Path, metavar="RUNDIR", help="the tuned model of this run here")
    restore.add_argument("--to", type=Path, metavar="DIR", help="and copy it into this folder")
    restore.add_argument("--tier", choices=("hot", "warm", "cold"), default="hot")
    gc = verb("gc", _tier_gc, "remove what nothing names any more")
    gc.add_argument("--yes", action="store_true", help="do it; without, only say what would go")
    gc.add_argument("--retention-days", type=float, default=365.0)
    rules = verb("lifecycle", _tier_lifecycle, "print lifecycle rules for the warm bucket as JSON")
    rules.add_argument("--provider", choices=("s3", "gcs"), default="s3")
    rules.add_argument("--retention-days", type=int, default=365)
    rules.add_argument("--cold-after-days", type=int, default=30)


def _store(arguments: argparse.Namespace) -> Any:
    from components.storage import Store, Tiers
    from pipelines.local import local_tiers
    from pipelines.spec import load_spec

    if arguments.spec is None:
        return Store(Tiers.under(arguments.workdir.resolve() / "store"))
    return Store(local_tiers(load_spec(arguments.spec), arguments.workdir))


def _tier_status(arguments: argparse.Namespace) -> int:
    from pipelines.cost.catalog import load_catalog
    from pipelines.tiers import status

    holdings = status(_store(arguments), load_catalog())
    if arguments.json:
        print(json.dumps([dataclasses.asdict(h) for h in holdings], indent=1))
        return 0
    rows = [
        (
            _short(h.uri), f"{h.bytes / MIB:.1f}", "+".join(h.tiers), h.named_by or "nothing",
            _usd(h.usd_per_month), h.best_tier, _usd(h.best_usd_per_month),
        )
        for h in holdings
    ]  # fmt: skip
    _print_table(
        ("artifact", "MiB", "tiers", "named by", "USD/month", "best tier", "USD/month there"), rows
    )
    total = sum(h.bytes for h in holdings)
    print(f"{len(holdings)} artifacts, {total / MIB:.1f} MiB")
    return 0


def _tier_sweep(arguments: argparse.Namespace) -> int:
    from pipelines.cost.catalog import load_catalog
    from pipelines.tiers import sweep

    moves = sweep(_store(arguments), load_catalog(), dry_run=not arguments.yes)
    for holding, words in moves:
        print(f"{_short(holding.uri)}  {words}")
    moved = [words for _, words in moves if not words.startswith("not moved")]
    print(_said(len(moved), "moved", "would move", done=arguments.yes))
    return 0


def _tier_restore(arguments: argparse.Namespace) -> int:
    from pipelines.tiers import copy_out, restore, tuned_model

    uri, store = arguments.uri, None
    if arguments.run is not None:
        if arguments.spec is None:
            arguments.workdir = arguments.run.resolve().parents[1]
        store = _store(arguments)
        uri = tuned_model(store, arguments.run.resolve().name)
    store = store or _store(arguments)
    restore(
        store,
        uri,
        tier=arguments.tier,
        on_progress=lambda done, total: print(f"{done} of {total} blobs"),
    )
    print(f"{uri} is on {arguments.tier}")
    if arguments.to is not None:
        copy_out(store, uri, arguments.to)
        print(f"and in {arguments.to}")
    return 0


def _tier_gc(arguments: argparse.Namespace) -> int:
    from pipelines.tiers import gc

    found = gc(
        _store(arguments), dry_run=not arguments.yes, retention_days=arguments.retention_days
    )
    print(json.dumps(dataclasses.asdict(found), indent=1, default=str))
    if not arguments.yes:
        print("nothing was removed; add --yes to do it")
    return 0


def _tier_lifecycle(arguments: argparse.Namespace) -> int:
    from pipelines.tiers import lifecycle_rules

    rules = lifecycle_rules(
        arguments.provider,
        retention_days=arguments.retention_days,
        cold_after_days=arguments.cold_after_days,
    )
    print(json.dumps(rules, indent=1))
    return 0


# -- catalog -------------------------------------------------------------------------------------


def _add_catalog(
    commands: Any, command: AddCommand, write_text: Callable[[Path, str], None]
) -> None:
    catalog = command(commands, "catalog", _catalog_list, "prices and nodes")
    verbs = catalog.add_subparsers(metavar="VERB", required=True)
    list_ = verbs.add_parser("list", help="instances with prices, the cheapest first")
    list_.set_defaults(command=_catalog_list)
    list_.add_argument("--gpu", default="", help="only instances with this GPU")
    list_.add_argument("--region", default="")
    list_.add_argument("--json", action="store_true")
    check = verbs.add_parser("check", help="read catalogue files and mark stale prices")
    check.set_defaults(command=_catalog_check)
    update = verbs.add_parser(
        "update", help="write rows of a cluster's nodes or of a public price file, for review"
    )
    update.set_defaults(command=lambda arguments: _catalog_update(arguments, write_text))
    source = update.add_mutually_exclusive_group(required=True)
    source.add_argument("--cluster", action="store_true", help="the nodes KUBECONFIG points at")
    source.add_argument(
        "--prices", type=Path, metavar="CSV", help="SkyPilot, gpuhunt or our layout"
    )
    update.add_argument("--cloud", default="own", help="of a price file without that column")
    update.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    for parser in (list_, check):
        parser.add_argument("--catalog", type=Path, action="append", default=[], metavar="FILE")


def _catalog_list(arguments: argparse.Namespace) -> int:
    from pipelines.cost.catalog import load_catalog

    rows = [
        i
        for i in load_catalog(arguments.catalog).instances
        if arguments.gpu.lower() in i.gpu.lower() and arguments.region in i.region
    ]
    if arguments.json:
        print(json.dumps([dataclasses.asdict(i) for i in rows], indent=1, default=str))
        return 0
    rows.sort(key=lambda i: (i.on_demand_usd_per_hour or float("inf"), i.name, i.region))
    _print_table(
        ("instance", "cloud", "region", "GPUs", "USD/h", "spot", "price of", "source"),
        [
            (
                i.name, i.cloud, i.region, f"{i.gpu_count} x {i.gpu}" if i.gpu_count else "",
                _usd(i.on_demand_usd_per_hour), _usd(i.spot_usd_per_hour), i.date, i.source[:40],
            )
            for i in rows
        ],
    )  # fmt: skip
    return 0


def _catalog_update(arguments: argparse.Namespace, write_text: Callable[[Path, str], None]) -> int:
    from pipelines.cost.catalog_update import cluster_rows, render_csv, rows_from_file

    today = datetime.now(UTC).date()
    if arguments.cluster:
        rows = cluster_rows(today)
    else:
        rows = rows_from_file(arguments.prices, cloud=arguments.cloud, today=today)
    write_text(arguments.output, render_csv(rows))
    print(f"{len(rows)} rows; review them, then use them with --catalog {arguments.output}")
    return 0


def _catalog_check(arguments: argparse.Namespace) -> int:
    from pipelines.cost.catalog import load_catalog

    catalog = load_catalog(arguments.catalog)
    today = datetime.now(UTC).date()
    ages: dict[tuple[str, str], int] = {}
    for instance in catalog.instances:
        if instance.date:
            age = (today - date.fromisoformat(instance.date)).days
            ages[instance.cloud, instance.date] = age
    for (cloud, day), age in sorted(ages.items()):
        count = sum((i.cloud, i.date) == (cloud, day) for i in catalog.instances)
        word = "STALE" if age > STALE_DAYS else "ok"
        print(f"{word:6} {cloud:6} {count:5} instances priced {day}, {age} days ago")
    unpriced = sum(i.on_demand_usd_per_hour is None for i in catalog.instances)
    print(
        f"{len(catalog.instances)} instances, {unpriced} without a price; hash {catalog.hash[:12]}"
    )
    return 0


# -- calibrate -----------------------------------------------------------------------------------


def _add_calibrate(
    commands: Any, command: AddCommand, write_text: Callable[[Path, str], None]
) -> None:
    calibrate = command(
        commands,
        "calibrate",
        lambda arguments: _calibrate(arguments, write_text),
        "refit the cost model from receipts, into a file for review",
    )
    calibrate.add_argument("rundirs", type=Path, nargs="+", metavar="RUNDIR")
    calibrate.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")


def _calibrate(arguments: argparse.Namespace, write_text: Callable[[Path, str], None]) -> int:
    import yaml

    from pipelines.learn import learn

    lesson = learn(arguments.rundirs)
    document = {**lesson.calibration.to_json(), "errors": lesson.errors}
    write_text(arguments.output, yaml.safe_dump(document, sort_keys=True))
    _print_table(
        ("step", "median error before", "after"),
        [
            (kind, f"{100 * e['before_median']:.0f} %", f"{100 * e['after_median']:.0f} %")
            for kind, e in lesson.errors.items()
        ],
    )
    for device, speed in lesson.calibration.transfers.items():
        print(f"{device}: data came and went at {speed / 1e6:.0f} MB/s")
    print(f"{lesson.rows} measured steps; use it with --calibration {arguments.output}")
    return 0


# -- words ---------------------------------------------------------------------------------------


def _short(uri: str) -> str:
    """``artifact://model/0123…`` as ``model/012345678901``."""
    kind, _, digest = uri.removeprefix("artifact://").partition("/")
    return f"{kind}/{digest[:12]}"


def _usd(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _said(count: int, past: str, conditional: str, *, done: bool) -> str:
    return f"{count} {past}" if done else f"{count} {conditional}; add --yes to do it"


def _print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    from rich.table import Table

    from pipelines.terminal import console

    table = Table(*header, box=None)
    for row in rows:
        table.add_row(*row)
    console().print(table)
