"""KFP faces of the decide step: one that checks the compiled plan, one that makes the run's own."""

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="suanli/data", install_kfp_package=False)
def decide(config: str, dataset: str, store: str, run_id: str) -> str:
    """Plan again with the measured data; stop before a GPU is asked for when the plan no longer
    holds. Returns the decision's URI.

    Args:
        config: the step's slice of the plan, as JSON.
        dataset: URI of the dataset.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
    """
    from components.runtime import execute
    from pipelines.control.decide import step

    return execute(
        "decide",
        step.run,
        config=config,
        inputs={"dataset": dataset},
        store=store,
        run_id=run_id,
        code=step.CODE,
    )


# The executor evaluates this signature again in the pod, where only the function's source is: so
# the outputs are spelt out in it (grants.py says what they are, and why these types).
@dsl.component(base_image="suanli/data", install_kfp_package=False)
def decide_requests(
    config: str,
    dataset: str,
    train_uri: str,
    validation_uri: str,
    test_uri: str,
    epochs: int,
    learning_rate: str,
    seed: int,
    max_quality_drop: float,
    deadline: str,
    budget_usd: float,
    capacity: str,
    store: str,
    run_id: str,
    page: dsl.Output[dsl.Markdown],
) -> NamedTuple(  # type: ignore[valid-type]
    "Requests",
    [
        (f"{kind}_{what}", of)
        for kind in ("place", "train", "compress", "export", "evaluate", "select", "publish")
        for what, of in (
            ("cpu", str),
            ("memory", str),
            ("gpu", str),
            ("gpus", str),
            ("selector", dict),
            ("tolerations", list),
        )
    ],
):
    """Plan again with the measured data and the run's parameters; returns what the later tasks'
    pods ask for, by kind of step.

    Args:
        config: the step's slice of the plan, as JSON.
        dataset: URI of the dataset.
        train_uri: parameter of the run, as the pipeline describes it; so are the next nine.
        validation_uri: see train_uri.
        test_uri: see train_uri.
        epochs: see train_uri.
        learning_rate: see train_uri.
        seed: see train_uri.
        max_quality_drop: see train_uri.
        deadline: see train_uri.
        budget_usd: see train_uri.
        capacity: see train_uri.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
        page: the decision for the KFP UI.
    """
    from collections import namedtuple
    from pathlib import Path

    from components.runtime import execute
    from pipelines.control.decide import dynamic, step

    parameters = {
        "train_uri": train_uri,
        "validation_uri": validation_uri,
        "test_uri": test_uri,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "seed": seed,
        "max_quality_drop": max_quality_drop,
        "deadline": deadline,
        "budget_usd": budget_usd,
        "capacity": capacity,
    }
    uri = execute(
        "decide",
        dynamic.run,
        config=dynamic.with_parameters(config, parameters),
        inputs={"dataset": dataset},
        store=store,
        run_id=run_id,
        code=step.CODE,
    )
    found = dynamic.hand_on(store, run_id, uri, Path(page.path))
    return namedtuple("Requests", found)(**found)
