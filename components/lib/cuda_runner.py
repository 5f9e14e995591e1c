"""Calls on a CUDA device: inputs and outputs bound to device memory, small batches replayed as
captured CUDA graphs.

A request of one short sequence costs more in launching kernels than in running them. ONNX Runtime
records a run under a graph id and replays it as one launch, for inputs of the same shape at the
same addresses: so each (batch, length) bucket owns its buffers and its id. Large batches have work
enough to hide launches; they run unrecorded, in their own shape.

Proven here only as far as a machine without a GPU can: see docs/inference.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Lengths of recorded graphs are multiples of this, batches powers of two up to GRAPH_BATCH: 4 x 32
# buckets at 512 tokens, each some megabytes of buffers.
GRAPH_LENGTH_STEP = 16
GRAPH_BATCH = 8
# "-1" tells ONNX Runtime not to record this run.
UNRECORDED = "-1"
OPTIONS = {"enable_cuda_graph": "1", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "1"}


@dataclass(slots=True, kw_only=True)
class Bucket:
    """Device buffers of one shape, bound once."""

    binding: Any
    inputs: dict[str, Any]
    output: Any
    run_options: Any
    batch: int
    length: int


def bucket_shape(batch: int, length: int, max_length: int) -> tuple[int, int] | None:
    """Return the (batch, length) that a batch is padded to, None when it runs unrecorded."""
    if batch > GRAPH_BATCH:
        return None
    rounded = -(-length // GRAPH_LENGTH_STEP) * GRAPH_LENGTH_STEP
    return 1 << (batch - 1).bit_length(), min(rounded, max_length)


class CudaCalls:
    """Runs feeds on one CUDA session."""

    def __init__(self, session: Any, *, max_length: int, labels: int, per_token: bool) -> None:
        """Bind to `session`, opened with `OPTIONS`.

        Args:
            session: a session on the CUDA provider.
            max_length: longest sequence.
            labels: width of the logits.
            per_token: whether logits have a length axis.
        """
        self.session, self.max_length = session, max_length
        self.labels, self.per_token = labels, per_token
        self.output = session.get_outputs()[0].name
        self.buckets: dict[tuple[int, int], Bucket] = {}

    def call(self, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the logits of a padded batch, replayed from a recorded graph if it is small."""
        ids = feed.get("input_ids")
        shape = None if ids is None else bucket_shape(*ids.shape, self.max_length)
        return self.unrecorded(feed) if shape is None else self._replay(feed, shape)

    def unrecorded(self, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the logits of a padded batch, run in its own shape."""
        import onnxruntime as ort

        binding = self.session.io_binding()
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        binding.bind_output(self.output, "cuda")
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", UNRECORDED)
        self.session.run_with_iobinding(binding, options)
        return binding.copy_outputs_to_cpu()[0]

    def _replay(self, feed: dict[str, NDArray[Any]], shape: tuple[int, int]) -> NDArray[Any]:
        if shape not in self.buckets:
            self.buckets[shape] = self._bucket(feed, shape)
        bucket = self.buckets[shape]
        rows, width = feed["input_ids"].shape
        for name, array in feed.items():
            padded = np.zeros(shape, dtype=array.dtype)
            padded[:rows, :width] = array
            if name == "attention_mask":
                padded[rows:, 0] = 1  # a row without any token has no softmax
            bucket.inputs[name].update_inplace(padded)
        self.session.run_with_iobinding(bucket.binding, bucket.run_options)
        logits = bucket.output.numpy()
        return logits[:rows, :width] if self.per_token else logits[:rows]

    def _bucket(self, feed: dict[str, NDArray[Any]], shape: tuple[int, int]) -> Bucket:
        import onnxruntime as ort

        inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, array.dtype), "cuda", 0)
            for name, array in feed.items()
        }
        wide = (*shape, self.labels) if self.per_token else (shape[0], self.labels)
        output = ort.OrtValue.ortvalue_from_shape_and_type(wide, np.float32, "cuda", 0)
        binding = self.session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(self.output, output)
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(len(self.buckets) + 1))
        return Bucket(
            binding=binding,
            inputs=inputs,
            output=output,
            run_options=options,
            batch=shape[0],
            length=shape[1],
        )
