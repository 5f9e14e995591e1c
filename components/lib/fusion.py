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
    source: Path, target: Path, *, model_type: str, heads: int, hidden: int, gpu: bool, half: bool
) -> dict[str, int]:
    """Write the fused form of the graph at `source` to `target`.

    Args:
        source: a traced fp32 (or fp16) graph.
        target: where the fused graph goes.
        model_type: transformers' ``config.model_type``.
        heads: attention heads of a layer, equal in all layers; 0 lets the optimizer detect them.
        hidden: width of the residual stream; 0 detects it.
        gpu: fuse for CUDA kernels.
        half: cast the fused graph's fp32 remains to fp16 (inputs and outputs keep their types).

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
    if half:
        fused.convert_float_to_float16(keep_io_types=True)
    counts = {k: int(v) for k, v in fused.get_fused_operator_statistics().items() if v}
    onnx_graph.save(fused.model, target)
    return counts


def pack(source: Path, target: Path) -> int:
    """Write a form of the fused graph that drops padding on the device (CUDA kernels only).

    ONNX Runtime's converter puts RemovePadding after the embeddings, turns each Attention into a
    PackedAttention and restores the padding at the end.

    Returns:
        Number of packed attentions; 0 when the graph's shape did not fit (nothing is written).
    """
    from onnxruntime.transformers.convert_to_packing_mode import PackingMode
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(onnx_graph.load(source))
    PackingMode(model).convert(use_symbolic_shape_infer=True)
    count = onnx_graph.operators(model.model).get("PackedAttention", 0) + onnx_graph.operators(
        model.model
    ).get("PackedMultiHeadAttention", 0)
    if count:
        onnx_graph.save(model.model, target)
    return count
