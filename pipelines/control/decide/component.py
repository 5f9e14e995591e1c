"""KFP face of the decide step."""

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
