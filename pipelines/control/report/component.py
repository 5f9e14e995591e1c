"""KFP face of the report step: the exit handler, so a failed run has a receipt too."""

from kfp import dsl


@dsl.component(base_image="suanli/data", install_kfp_package=False)
def report(
    config: str,
    store: str,
    run_id: str,
    status: dsl.PipelineTaskFinalStatus,
    html: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Compare the plan with what the steps measured and write the receipt.

    Args:
        config: the step's slice of the plan, as JSON.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
        status: how the steps ended.
        html: the report page for the KFP UI.
        summary: the receipt in Markdown for the KFP UI.
    """
    from components.lib.kfp_artifacts import copy_report
    from components.runtime import execute
    from pipelines.control.report import step

    uri = execute(
        "report",
        step.run,
        config=config,
        inputs={"state": status.state},
        store=store,
        run_id=run_id,
        resumable=False,
    )
    copy_report(store, uri, html, summary)
