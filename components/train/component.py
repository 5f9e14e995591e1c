"""KFP face of the train step."""

from kfp import dsl


@dsl.component(base_image="suanli/train", install_kfp_package=False)
def train(
    config: str,
    dataset: str,
    store: str,
    run_id: str,
    curves: dsl.Output[dsl.Artifact],
    mlpipeline_ui_metadata: dsl.Output[dsl.Artifact],
) -> str:
    """Fine-tune the model on the dataset; returns the tuned model's URI.

    Args:
        config: the step's slice of the plan, as JSON.
        dataset: URI of the dataset.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
        curves: TensorBoard files.
        mlpipeline_ui_metadata: has the KFP UI offer a TensorBoard; the UI knows it by this name.
    """
    from components.lib.kfp_artifacts import show_curves
    from components.runtime import execute
    from components.train import step

    uri = execute(
        "train",
        step.run,
        config=config,
        inputs={"dataset": dataset},
        store=store,
        run_id=run_id,
    )
    show_curves(store, uri, curves, mlpipeline_ui_metadata)
    return uri
