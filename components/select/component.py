"""KFP face of the select step."""

from kfp import dsl


@dsl.component(base_image="suanli/infer", install_kfp_package=False)
def select(
    config: str,
    evaluations: list,
    onnx: list,
    dataset: str,
    store: str,
    run_id: str,
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
) -> str:
    """Pick the cheapest variant within the quality budget, then score it once on test; returns
    the selection's URI.

    Args:
        config: the step's slice of the plan, as JSON.
        evaluations: URIs of the evaluations, one a variant.
        onnx: URIs of the exported graphs, in the same order.
        dataset: URI of the dataset.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
        metrics: what the KFP UI shows of it.
        confusion: the confusion matrix for the KFP UI.
    """
    from components.lib.kfp_artifacts import log_selection
    from components.runtime import execute
    from components.select import step

    uri = execute(
        "select",
        step.run,
        config=config,
        inputs={"evaluations": evaluations, "onnx": onnx, "dataset": dataset},
        store=store,
        run_id=run_id,
    )
    log_selection(store, uri, metrics, confusion)
    return uri
