"""KFP face of the place step."""

from kfp import dsl


@dsl.component(base_image="suanli/data", install_kfp_package=False)
def place(config: str, dataset: str, store: str, run_id: str) -> str:
    """Put the dataset on the tiers the cost model chose; returns the dataset's URI.

    Args:
        config: the step's slice of the plan, as JSON.
        dataset: URI of the dataset.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
    """
    from components.place import step
    from components.runtime import execute

    return execute(
        "place",
        step.run,
        config=config,
        inputs={"dataset": dataset},
        store=store,
        run_id=run_id,
    )
