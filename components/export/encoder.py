"""Write a BERT-family encoder as a fused graph, straight from its weights.

No tracing and no pattern matching: embeddings, then for each layer Attention, the matrix products
and the normalisations between them, with each layer's own head count. What no output depends on is
not computed: a classifier that reads only the first token runs the last layer's output projection
and feed-forward for that token alone. Positions beyond the exported length and the constant segment
embedding are folded away.

The fused operators differ by target. CUDA has kernels for EmbedLayerNormalization,
SkipLayerNormalization and BiasGelu. On CPU these three are scalar loops, several times slower than
a sum, LayerNormalization and a Gelu whose bias the product adds (benchmarks/infer_operators.py), so
they are left apart, and `Sum` is written where `Add` would be fused again by the session.

Packed (CUDA): padding is removed after the embeddings and every later operator sees real tokens
only; PackedAttention keeps sequences apart by their cumulated lengths.

A model this reader does not know exactly is refused; the export step then tries a traced graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.contract import DataError
from components.lib import onnx_graph

FAMILIES = {"bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta", "camembert": "roberta"}
GELU = {"gelu": "Gelu", "gelu_new": "FastGelu", "gelu_pytorch_tanh": "FastGelu"}
STANDARD = ("Add", "Cast", "Gather", "Identity", "LayerNormalization", "MatMul", "ReduceSum",
            "Relu", "Shape", "Slice", "Sum", "Tanh")  # fmt: skip


class UnknownArchitectureError(DataError):
    """This writer does not know the model exactly; a traced graph may do."""


def _empty_model() -> Any:
    import onnx

    return onnx.ModelProto()


@dataclass(slots=True)
class Graph:
    """Collects nodes and weights under generated names."""

    gpu: bool = False
    kind: Any = np.float32
    nodes: list[Any] = field(default_factory=list)
    model: Any = field(default_factory=_empty_model)  # weights go into it at once: one copy each
    packing: tuple[str, str] | None = None  # names of token offsets and cumulated lengths

    def weight(self, name: str, value: Any, kind: Any = None) -> str:
        """Add an initializer and return its name."""
        from onnx import numpy_helper

        array = np.asarray(value, dtype=kind or self.kind, order="C")
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def node(
        self, operator: str, inputs: list[str], name: str, *, outputs: int = 1, **attributes: Any
    ) -> str:
        """Add a node and return its first output, which carries the node's name."""
        from onnx import helper

        names = [name] + [f"{name}.{index}" for index in range(1, outputs)]
        domain = "" if operator in STANDARD else onnx_graph.MICROSOFT
        made = helper.make_node(operator, inputs, names, name=name, domain=domain, **attributes)
        self.nodes.append(made)
        return name


def build(
    model: Any,
    task: str,
    max_length: int,
    *,
    gpu: bool = False,
    half: bool = False,
    packed: bool = False,
) -> Any:
    """Return the fused graph of `model` as a ModelProto.

    Args:
        model: a transformers BERT or RoBERTa with a task head, pruned or not, in fp32.
        task: decides the output: a row a token, or a row a sequence.
        max_length: longest sequence the graph takes; later position embeddings are left out.
        gpu: write the fused operators that CUDA has kernels for.
        half: fp16 weights and arithmetic, fp32 logits (CUDA kernels).
        packed: compute no padding (CUDA kernels).

    Raises:
        UnknownArchitectureError: not a model this writer knows.
        DataError: max_length is beyond the model's positions.
    """
    from onnx import TensorProto, helper

    config = model.config
    if config.model_type not in FAMILIES:
        raise UnknownArchitectureError(f"{config.model_type} is not an encoder of the BERT family")
    if getattr(config, "is_decoder", False) or config.hidden_act not in (*GELU, "relu"):
        raise UnknownArchitectureError(
            f"{config.model_type} with hidden_act {config.hidden_act}, decoder or not"
        )
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise UnknownArchitectureError("position embeddings are not absolute")
    graph = Graph(gpu, np.float16 if half else np.float32)
    body = getattr(model, model.base_model_prefix)
    pairs = task == "text-pair-ranking" and config.type_vocab_size > 1
    hidden, mask = embed(graph, body.embeddings, config, max_length, pairs=pairs)
    if packed:
        hidden = remove_padding(graph, hidden, mask)
    layers = list(body.encoder.layer)
    first_only = task != "token-classification"
    for number, layer in enumerate(layers):
        last = first_only and number == len(layers) - 1
        hidden = encode(graph, layer, hidden, mask, config, f"layer{number}", first_only=last)
    logits = head(graph, model, body, hidden, task)
    if packed and not first_only:
        logits = graph.node("RestorePadding", [logits, graph.packing[0]], "restored")
    graph.node("Cast", [logits], "logits", to=TensorProto.FLOAT)
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if pairs else [])
    shape = ["batch", "length"]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in names]
    shape = ["batch", "labels"] if first_only else ["batch", "length", "labels"]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    made = graph.model
    made.ir_version = onnx_graph.IR_VERSION
    made.opset_import.append(helper.make_opsetid("", onnx_graph.OPSET))
    made.opset_import.append(helper.make_opsetid(onnx_graph.MICROSOFT, 1))
    made.graph.name = "suanli"
    made.graph.node.extend(graph.nodes)
    made.graph.input.extend(inputs)
    made.graph.output.append(output)
    return made


def array(parameter: Any) -> np.ndarray:
    """Return a torch parameter as fp32 numpy."""
    return parameter.detach().float().numpy()


def embed(
    graph: Graph, embeddings: Any, config: Any, max_length: int, *, pairs: bool
) -> tuple[str, str]:
    """Add the embeddings; returns the hidden states and the sequences' lengths (1-D mask)."""
    # RoBERTa counts positions from padding_idx + 1; padding is on the right here.
    shift = config.pad_token_id + 1 if FAMILIES[config.model_type] == "roberta" else 0
    positions = array(embeddings.position_embeddings.weight)[shift : shift + max_length]
    if len(positions) < max_length:
        raise DataError(
            f"max_length {max_length} is beyond the model's {len(positions)} positions",
            remedy="lower training.max_length",
        )
    segments = array(embeddings.token_type_embeddings.weight)
    word = graph.weight("word", array(embeddings.word_embeddings.weight))
    if not pairs:
        positions = positions + segments[0]
    position = graph.weight("position", positions)
    segment = graph.weight("segment", segments) if pairs else ""
    scales = norm(graph, embeddings.LayerNorm, "embeddings.norm")
    epsilon = float(embeddings.LayerNorm.eps)
    make = _embed_gpu if graph.gpu else _embed_cpu
    return make(graph, word, position, segment, scales, epsilon)


def _embed_gpu(
    graph: Graph, word: str, position: str, segment: str, scales: list[str], epsilon: float
) -> tuple[str, str]:
    ids, mask = as_int32(graph, "input_ids"), as_int32(graph, "attention_mask")
    types = as_int32(graph, "token_type_ids") if segment else ""
    out = graph.node(
        "EmbedLayerNormalization",
        [ids, types, word, position, segment, *scales, mask],
        "embeddings",
        outputs=2,
        epsilon=epsilon,
    )
    return out, f"{out}.1"


def _embed_cpu(
    graph: Graph, word: str, position: str, segment: str, scales: list[str], epsilon: float
) -> tuple[str, str]:
    parts = [graph.node("Gather", [word, "input_ids"], "word.rows")]
    length = graph.node("Shape", ["input_ids"], "length", start=1, end=2)
    zero = graph.weight("position.start", [0], np.int64)
    parts.append(graph.node("Slice", [position, zero, length, zero], "position.rows"))
    if segment:
        parts.append(graph.node("Gather", [segment, "token_type_ids"], "segment.rows"))
    total = graph.node("Sum", parts, "embeddings.sum")
    out = graph.node("LayerNormalization", [total, *scales], "embeddings", epsilon=epsilon, axis=-1)
    axis = graph.weight("mask.axis", [1], np.int64)
    mask = as_int32(graph, "attention_mask")
    return out, graph.node("ReduceSum", [mask, axis], "lengths", keepdims=0)


def as_int32(graph: Graph, name: str) -> str:
    """Cast an input to what Microsoft's operators take."""
    from onnx import TensorProto

    return graph.node("Cast", [name], f"{name}.int32", to=TensorProto.INT32)


def norm(graph: Graph, module: Any, name: str) -> list[str]:
    """Add a layer norm's weights."""
    return [
        graph.weight(f"{name}.scale", array(module.weight)),
        graph.weight(f"{name}.shift", array(module.bias)),
    ]


def encode(
    graph: Graph, layer: Any, hidden: str, mask: str, config: Any, name: str, *, first_only: bool
) -> str:
    """Add one encoder layer; with `first_only`, of everything after attention only the first
    token's row."""
    attention, output = layer.attention.self, layer.attention.output
    heads = attention.query.weight.shape[0] // (config.hidden_size // config.num_attention_heads)
    residual = first_token(graph, hidden, f"{name}.residual") if first_only else hidden
    mixed = None
    if heads:
        parts = (attention.query, attention.key, attention.value)
        weight = np.concatenate([array(part.weight) for part in parts])
        bias = np.concatenate([array(part.bias) for part in parts])
        names = [graph.weight(f"{name}.qkv", weight.T), graph.weight(f"{name}.qkv.bias", bias)]
        # Pruned heads: the projection is narrower than the residual stream.
        pruned = weight.shape[0] != 3 * weight.shape[1]
        sizes = {"qkv_hidden_sizes": [weight.shape[0] // 3] * 3} if pruned else {}
        mixed = graph.node(
            "PackedAttention" if graph.packing else "Attention",
            [hidden, *names, *(graph.packing or (mask,))],
            f"{name}.attention",
            num_heads=heads,
            **sizes,
        )
        mixed = first_token(graph, mixed, f"{name}.first") if first_only else mixed
    hidden = add_norm(graph, mixed, output.dense, residual, output.LayerNorm, f"{name}.mix")
    return feed_forward(graph, layer, hidden, config, name)


def feed_forward(graph: Graph, layer: Any, hidden: str, config: Any, name: str) -> str:
    """Add the feed-forward half of a layer."""
    wide, narrow = layer.intermediate.dense, layer.output
    inner = None
    if wide.weight.shape[0]:
        weight = graph.weight(f"{name}.wide", array(wide.weight).T)
        bias = graph.weight(f"{name}.wide.bias", array(wide.bias))
        product = graph.node("MatMul", [hidden, weight], f"{name}.wide.product")
        if graph.gpu and config.hidden_act == "gelu":
            inner = graph.node("BiasGelu", [product, bias], f"{name}.active")
        else:
            product = graph.node("Sum", [product, bias], f"{name}.wide.sum")
            active = "Relu" if config.hidden_act == "relu" else GELU[config.hidden_act]
            inner = graph.node(active, [product], f"{name}.active")
    return add_norm(graph, inner, narrow.dense, hidden, narrow.LayerNorm, f"{name}.out")


def add_norm(
    graph: Graph, inner: str | None, dense: Any, residual: str, module: Any, name: str
) -> str:
    """Project `inner`, add bias and residual, normalise. `inner` None: everything was pruned, and
    only the bias is left."""
    bias = graph.weight(f"{name}.bias", array(dense.bias))
    scale, shift = norm(graph, module, f"{name}.norm")
    if inner is None:
        total = graph.node("Add", [residual, bias], f"{name}.sum")
        return graph.node(
            "LayerNormalization", [total, scale, shift], name, epsilon=float(module.eps), axis=-1
        )
    weight = graph.weight(f"{name}.weight", array(dense.weight).T)
    product = graph.node("MatMul", [inner, weight], f"{name}.product")
    epsilon = float(module.eps)
    if graph.gpu:
        inputs = [product, residual, scale, shift, bias]
        return graph.node("SkipLayerNormalization", inputs, name, epsilon=epsilon)
    product = graph.node("Sum", [product, bias], f"{name}.biased")
    total = graph.node("Sum", [product, residual], f"{name}.sum")
    return graph.node("LayerNormalization", [total, scale, shift], name, epsilon=epsilon, axis=-1)


def remove_padding(graph: Graph, hidden: str, lengths: str) -> str:
    """Lay real tokens end to end: (batch, length, width) to (tokens, width)."""
    tokens = graph.node("RemovePadding", [hidden, lengths], "tokens", outputs=4)
    graph.packing = (f"{tokens}.1", f"{tokens}.2")
    return tokens


def first_token(graph: Graph, source: str, name: str) -> str:
    """Keep the first token of every sequence: (batch, 1, width), or (batch, width) when packed."""
    if graph.packing is None:
        index = graph.weight(f"{name}.index", [0], np.int64)
        return graph.node("Gather", [source, index], name, axis=1)
    ends = [graph.weight(f"{name}.{n}", [v], np.int64) for n, v in (("from", 0), ("to", -1))]
    starts = graph.node("Slice", [graph.packing[1], *ends], f"{name}.starts")
    return graph.node("Gather", [source, starts], name, axis=0)


def head(graph: Graph, model: Any, body: Any, hidden: str, task: str) -> str:
    """Add the task's head on (batch, length or 1, width)."""
    if task == "token-classification":
        return linear(graph, model.classifier, hidden, "classifier")
    first = hidden  # packed: (batch, width) already
    if graph.packing is None:
        index = graph.weight("head.index", np.array(0), np.int64)
        first = graph.node("Gather", [hidden, index], "head.first", axis=1)
    if getattr(body, "pooler", None) is not None:  # BERT
        pooled = linear(graph, body.pooler.dense, first, "pooler")
        return linear(graph, model.classifier, tanh(graph, pooled, "pooled"), "classifier")
    if hasattr(model.classifier, "out_proj"):  # RoBERTa
        pooled = linear(graph, model.classifier.dense, first, "pooler")
        return linear(graph, model.classifier.out_proj, tanh(graph, pooled, "pooled"), "classifier")
    raise UnknownArchitectureError(f"{type(model).__name__} has a head this writer does not know")


def tanh(graph: Graph, source: str, name: str) -> str:
    return graph.node("Tanh", [source], name)


def linear(graph: Graph, module: Any, source: str, name: str) -> str:
    """Add a matrix product with bias."""
    weight = graph.weight(f"{name}.weight", array(module.weight).T)
    product = graph.node("MatMul", [source, weight], f"{name}.product")
    return graph.node("Add", [product, graph.weight(f"{name}.bias", array(module.bias))], name)
