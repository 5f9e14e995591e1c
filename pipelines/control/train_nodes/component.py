"""KFP face of training on several nodes."""

from kfp import dsl


@dsl.component(base_image="suanli/data", install_kfp_package=False)
def train_nodes(config: str, dataset: str, store: str, run_id: str) -> str:
    """Fine-tune the model in a Kubeflow TrainJob; returns the tuned model's URI.

    Args:
        config: the step's slice of the plan, with what the TrainJob's pods ask for, as JSON.
        dataset: URI of the dataset.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
    """
    from components.runtime import execute
    from pipelines.control.train_nodes import step

    return execute(
        "train",
        step.run,
        config=config,
        inputs={"dataset": dataset},
        store=store,
        run_id=run_id,
    )
