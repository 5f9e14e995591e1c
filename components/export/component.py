"""KFP face of the export step."""

from kfp import dsl


@dsl.component(base_image="suanli/train", install_kfp_package=False)
def export(config: str, model: str, dataset: str, store: str, run_id: str) -> str:
    """Export to ONNX, fused for its target and checked against PyTorch; returns the graph's URI.

    Args:
        config: the step's slice of the plan, as JSON.
        model: URI of the tuned model.
        dataset: URI of the dataset.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
    """
    from components.export import step
    from components.runtime import execute

    return execute(
        "export",
        step.run,
        config=config,
        inputs={"model": model, "dataset": dataset},
        store=store,
        run_id=run_id,
    )
