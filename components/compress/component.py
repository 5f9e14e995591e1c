"""KFP face of the compress step."""

from kfp import dsl


@dsl.component(base_image="suanli/train", install_kfp_package=False)
def compress(config: str, model: str, dataset: str, store: str, run_id: str) -> str:
    """Prune, distil or quantise as the variant says; returns the compressed model's URI.

    Args:
        config: the step's slice of the plan, as JSON.
        model: URI of the tuned model.
        dataset: URI of the dataset.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
    """
    from components.compress import step
    from components.runtime import execute

    return execute(
        "compress",
        step.run,
        config=config,
        inputs={"model": model, "dataset": dataset},
        store=store,
        run_id=run_id,
    )
