"""KFP faces of the ingest step: data as compiled, or from the run's parameters."""

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


@dsl.component(base_image="suanli/data", install_kfp_package=False)
def ingest_parameters(
    config: str,
    train_uri: str,
    validation_uri: str,
    test_uri: str,
    seed: int,
    store: str,
    run_id: str,
) -> str:
    """Read, validate and tokenise the run's data once; returns the dataset's URI.

    Args:
        config: the step's slice of the plan, as JSON.
        train_uri: where the training data is.
        validation_uri: where the validation data is; empty: as compiled.
        test_uri: where the test data is; empty: as compiled.
        seed: draws splits that are a share of the training data.
        store: the three storage tiers, as JSON.
        run_id: names this run in the store.
    """
    from components.ingest import parameters, step
    from components.runtime import execute

    return execute(
        "ingest",
        step.run,
        config=parameters.with_parameters(
            config,
            train_uri=train_uri,
            validation_uri=validation_uri,
            test_uri=test_uri,
            seed=seed,
        ),
        inputs={},
        store=store,
        run_id=run_id,
        external=step.external,
    )
