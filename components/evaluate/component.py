"""KFP face of the evaluate step."""

from kfp import dsl


@dsl.component(base_image="suanli/infer", install_kfp_package=False)
def evaluate(
    config: str,
    onnx: str,
    dataset: str,
    store: str,
    run_id: str,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Measure quality, latency and throughput on the planned device; returns the evaluation's URI.

    Args:
        config: the step's slice of the plan, as JSON.
        onnx: URI of the exported graph.
        dataset: URI of the dataset.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
        metrics: what the KFP UI shows of it.
    """
    from components.evaluate import step
    from components.lib.kfp_artifacts import log_evaluation
    from components.runtime import execute

    uri = execute(
        "evaluate",
        step.run,
        config=config,
        inputs={"onnx": onnx, "dataset": dataset},
        store=store,
        run_id=run_id,
    )
    log_evaluation(store, uri, metrics)
    return uri
