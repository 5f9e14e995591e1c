"""``python -m components.monitor OPTIONS.json``: the process behind `suanli monitor`.

Prints one JSON event a line; errors of ours end with their exit code and a last event.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from components.contract import SuanliError
from components.monitor.records import Fields
from components.monitor.scorer import Scorer
from components.monitor.state import StateFolder
from components.monitor.watch import Watch


def main() -> int:
    """Run with the options that the only argument holds as JSON."""
    options = json.loads(sys.argv[1])
    try:
        watch = _watch(options)
        if options.get("folder"):
            watch.folder(Path(options["folder"]), follow=bool(options.get("follow")))
        else:
            watch.stdin()
    except SuanliError as error:
        _tell({"kind": "error", "message": error.message, "remedy": error.remedy,
               "exit_code": error.exit_code})  # fmt: skip
        return error.exit_code
    _tell(watch.summary())
    return 0


def _watch(options: dict[str, Any]) -> Watch:
    watch = Watch(
        scorer=Scorer(
            Path(options["model"]),
            negative=options.get("negative"),
            threads=int(options.get("threads") or 2),
        ),
        state=StateFolder(Path(options["state"])),
        tell=_tell,
        fields=Fields(text=options.get("text_field"), subject=options.get("subject_field")),
        keep_scores=bool(options.get("keep_scores")),
        texts_per_false_alarm=float(options["texts_per_false_alarm"]),
    )
    if options.get("reference"):
        watch.learn_reference(Path(options["reference"]))
    return watch


def _tell(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event, ensure_ascii=True) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
