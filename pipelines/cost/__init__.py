"""Cost model: what a workload takes in seconds and bytes on given hardware.

- `shapes.ModelShape`, `hf_config.from_hf_config(dict)`, `model_names.by_name(str)`: architectures.
- `hardware.find_gpu`, `hardware.gpus`, `hardware.Cpu`, `probe.measure_cpu`: devices.
- `workload.Workload`, `workload.Prediction`: the question and the answer.
- `predict.predict`, `predict_many` (vectorised), `predict_csv` (`suanli predict`): the model.
- `calibration.fit_residuals`, `Calibration`: learning from measured steps.
"""
