"""Fail the build when a step of this image's family can't be imported in it.

Run as the image's own user, on the final stage: what is missing here would be missing in a pod.
"""

from __future__ import annotations

import importlib
import os
import sys

STEPS = {
    "data": ("ingest", "place", "publish"),
    "train": ("train", "compress", "export"),
    "infer": ("evaluate", "select"),
}
LIBRARIES = {
    "data": (
        "pipelines.cli", "pipelines.dag", "pipelines.render", "pipelines.submit",
        "pipelines.control.decide.dynamic", "pipelines.control.report.step",
        "pipelines.control.train_nodes.step", "pipelines.trainjob", "kubernetes", "kfp_server_api",
        "tokenizers", "pyarrow", "obstore",
    ),
    "train": ("torch", "transformers", "onnx", "onnxscript", "kfp.dsl.executor_main"),
    "infer": ("onnxruntime", "tokenizers", "mlperf_loadgen", "kfp.dsl.executor_main"),
}  # fmt: skip


def main() -> None:
    family = sys.argv[1]
    if family != "data":
        # KFP sets this when it starts a step: kfp then imports nothing beside itself. The data
        # image compiles pipelines too and has all of kfp.
        os.environ["_KFP_RUNTIME"] = "true"
    names = [f"components.{step}.step" for step in STEPS[family]] + list(LIBRARIES[family])
    failures = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # every kind of failed import ends the build
            failures.append(f"{name}: {type(error).__name__}: {error}")
    print(f"{family}: {len(names) - len(failures)} of {len(names)} modules import")
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
