"""KFP face of the ingest step."""

from kfp import dsl


@dsl.component(base_image="suanli/data", install_kfp_package=False)
def ingest(config: str, store: str, run_id: str) -> str:
    """Read, validate and tokenise the data once; returns the dataset's URI.

    Args:
        config: the step's slice of the plan, as JSON.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
    """
    from components.ingest import step
    from components.runtime import execute

    return execute(
        "ingest",
        step.run,
        config=config,
        inputs={},
        store=store,
        run_id=run_id,
        external=step.external,
    )
