"""Data plane measurements: ``python -m benchmarks.storage ingest|memory|objects|stage|year``.

ingest   rows/s and MB/s of the whole ingest step against `datasets` load + map with the same
         tokenizer, truncation and number of processes, alternating, median of the ratios.
memory   peak resident memory and speed of ingest on a file of a given size, no two rows alike.
objects  put and get MB/s of the store's object bucket against boto3's transfer manager on one
         Swift server, alternating, with few large and many small files; with ``--s3fs PYTHON`` also
         s3fs, by that interpreter.
stage    MB/s of laying an artifact out from a warm tier on Swift, from the hot tier, and as a
         stream of which each file is used as it comes.
year     a simulated year of 200 runs: our bill against simpler rules and the offline optimum.
"""

from __future__ import annotations

import argparse
import statistics

from benchmarks.storage_ingest import ingest, memory
from benchmarks.storage_objects import objects, stage


def year(seeds: int) -> None:
    from benchmarks.storage_year import simulate
    from pipelines.cost.catalog import load_catalog

    catalog = load_catalog()
    classes = {
        name: prices
        for name in ("standard", "infrequent", "glacier-ir", "archive")
        if (prices := catalog.storage_class("aws", name)) is not None
    }
    ratios = []
    for seed in range(1, seeds + 1):
        bill = simulate(classes, seed)
        ratios.append(bill.ours / bill.optimum)
        print(
            f"seed {seed}: ours {bill.ours:.2f} USD, optimum {bill.optimum:.2f} (ratio "
            f"{ratios[-1]:.3f}), Intelligent-Tiering {bill.intelligent:.2f}, standard "
            f"{bill.standard:.2f}, ours without plans {bill.without_plans:.2f}; missed deadlines "
            f"{bill.missed}; hot {100 * bill.hot_share:.0f} % of bytes"
        )
    print(f"mean ratio to the offline optimum {statistics.mean(ratios):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["ingest", "memory", "objects", "stage", "year"])
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--files", type=int, help="only the mix of so many files (objects)")
    parser.add_argument("--s3fs", metavar="PYTHON", help="an interpreter that has s3fs")
    arguments = parser.parse_args()
    if arguments.what == "ingest":
        ingest(arguments.megabytes, arguments.repeats)
    elif arguments.what == "memory":
        memory(arguments.megabytes)
    elif arguments.what == "objects":
        objects(arguments.repeats, arguments.s3fs, arguments.files)
    elif arguments.what == "stage":
        stage(arguments.megabytes, arguments.repeats)
    else:
        year(arguments.repeats)


if __name__ == "__main__":
    main()
