"""Fuse a traced transformer with ONNX Runtime's own offline optimizer.

The optimizer stamps one head count on every layer, which silently corrupts a model whose layers
kept different numbers of heads (logits off by 3e-4 where 2e-7 is right). Nothing here trusts it:
the export step compares every graph with PyTorch before it goes on.
"""

from __future__ import annotations

import logging
from pathlib import Path

from components.lib import onnx_graph

# transformers' model_type to the optimizer's: these share BERT's layer, names apart.
OPTIMIZER_TYPES = {
    "bert": "bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
    "camembert": "bert",
    "distilbert": "bert",
    "electra": "bert",
    "mpnet": "bert",
    "vit": "vit",
    "gpt2": "gpt2",
}


def fuse(
    source: Path, target: Path, *, model_type: str, heads: int, hidden: int, gpu: bool
) -> dict[str, int]:
    """Write the fused form of the graph at `source` to `target`.

    Args:
        source: a traced fp32 graph.
        target: where the fused graph goes.
        model_type: transformers' ``config.model_type``.
        heads: attention heads of a layer, equal in all layers; 0 lets the optimizer detect them.
        hidden: width of the residual stream; 0 detects it.
        gpu: fuse for CUDA kernels.

    Returns:
        How often each fused operator occurs.
    """
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    name = OPTIMIZER_TYPES.get(model_type, "bert")
    options = FusionOptions(name)
    # GPU kernels read a 1-D sequence-length mask; it also needs right padding, which we use.
    fused = optimizer.optimize_model(
        str(source),
        model_type=name,
        num_heads=heads,
        hidden_size=hidden,
        optimization_options=options,
        opt_level=0,  # session-level rewrites belong to the machine that serves
        use_gpu=gpu,
    )
    counts = {k: int(v) for k, v in fused.get_fused_operator_statistics().items() if v}
    onnx_graph.save(fused.model, target)
    return counts


def to_half(source: Path, target: Path) -> None:
    """Write the fused graph with fp16 weights and arithmetic; inputs and outputs keep their
    types."""
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(onnx_graph.load(source))
    model.convert_float_to_float16(keep_io_types=True)
    onnx_graph.save(model.model, target)
