"""``python -m pipelines`` is the ``suanli`` command."""

from pipelines.cli import main

main()
