"""Shipped price and hardware tables; `pipelines.cost.catalog` reads them, every row has its source
and date. Made by benchmarks/build_catalog.py from public tables."""
