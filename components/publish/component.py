"""KFP face of the publish step."""

from kfp import dsl


@dsl.component(base_image="suanli/data", install_kfp_package=False)
def publish(config: str, selection: str, dataset: str, store: str, run_id: str) -> str:
    """Lay the selected model out for serving; returns the published folder's URI.

    Args:
        config: the step's slice of the plan, as JSON.
        selection: URI of the selection.
        dataset: URI of the dataset.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
    """
    from components.publish import step
    from components.runtime import execute

    return execute(
        "publish",
        step.run,
        config=config,
        inputs={"selection": selection, "dataset": dataset},
        store=store,
        run_id=run_id,
    )
