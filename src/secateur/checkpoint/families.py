"""The model families: what each calls its modules and sizes. One entry a family; no other file spells one.

Names are those that transformers gives the modules of a model with a task head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["FAMILIES", "NOT_SUPPORTED", "Family", "Head", "HeadNames", "unsupported_family"]

Head = Literal["sequence", "token", "masked", "embedding"]  # as in `secateur.tasks`


@dataclass(frozen=True)
class HeadNames:
    """The modules that turn hidden states into what a task wants. All but `head` may be absent.

    Attributes:
        head: What it gives: a row a sequence, a row a token, a row over the vocabulary, or a vector.
        labels: Whether its outputs have names, in `id2label`.
        dense: A linear layer, run first.
        activation: What follows it; "hidden" is what the encoder's layers use, too.
        norm: A layer norm that follows the activation.
        output: The module that owns the last bias, and the last weight unless it is tied.
        decoder: The linear layer whose weight is the word table and whose bias is that of `output`.
    """

    head: Head
    labels: bool = False
    dense: str | None = None
    activation: Literal["tanh", "relu", "gelu", "hidden"] | None = None
    norm: str | None = None
    output: str | None = None
    decoder: str | None = None


@dataclass(frozen=True)
class Family:
    """How the models of a family are laid out.

    Attributes:
        class_name: With which the names of its classes begin, as `Bert` in `BertForMaskedLM`.
        prefix: The name under which the encoder hangs in a model with a task head.
        layers: The list of layers in the encoder.
        inner_layers: A list inside each element of that list, where layers stand in groups that run often.
        linears: The six pruned and quantized matrices in a layer, role to name, in the order they run.
        attention: The module in a layer whose name the ranges of query, key and value are stored under.
        norms: The norms in a layer, `attn_norm` and `ffn_norm`.
        tables: The tables that are summed into the first hidden states, kind to name in the encoder.
        projection: The linear layer from the embeddings to the hidden size, in the encoder.
        always_projects: Whether it is there even where both sizes are equal.
        counts_padding: Whether positions start behind the padding id, and padding tokens have none.
        keys: What config.json calls a size or switch, where that is not what BERT's calls it.
        activation: The one of the layers, where config.json does not say.
        norm_eps: Where config.json has no such entry.
        heads: The end of a class's name to its head.
    """

    class_name: str
    prefix: str
    layers: str
    linears: Mapping[str, str]
    attention: str
    norms: Mapping[str, str]
    tables: Mapping[str, str]
    heads: Mapping[str, HeadNames]
    inner_layers: str | None = None
    projection: str | None = None
    always_projects: bool = False
    counts_padding: bool = False
    keys: Mapping[str, str] | None = None
    activation: str = "gelu"
    norm_eps: float | None = None

    @property
    def embedding_norm(self) -> str:
        """The norm of the embeddings, which carries the guard; the same in every family."""
        return "embeddings.LayerNorm"

    @property
    def architectures(self) -> dict[str, HeadNames]:
        """Class name to head."""
        return {f"{self.class_name}{end}": head for end, head in self.heads.items()}

    def key(self, name: str) -> str:
        """Returns what config.json calls what BERT's calls `name`."""
        return (self.keys or {}).get(name, name)


_TABLES = {
    "word": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "token_type": "embeddings.token_type_embeddings",
}
_EVERY_TOKEN = {
    "ForTokenClassification": HeadNames("token", labels=True, output="classifier"),
    "ForQuestionAnswering": HeadNames("token", output="qa_outputs"),
    "Model": HeadNames("embedding"),
}

_BERT = Family(
    class_name="Bert",
    prefix="bert",
    layers="encoder.layer",
    linears={
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attn_out": "attention.output.dense",
        "ffn_in": "intermediate.dense",
        "ffn_out": "output.dense",
    },
    attention="attention",
    norms={"attn_norm": "attention.output.LayerNorm", "ffn_norm": "output.LayerNorm"},
    tables=_TABLES,
    heads={
        "ForSequenceClassification": HeadNames(
            "sequence", labels=True, dense="bert.pooler.dense", activation="tanh", output="classifier"
        ),
        **_EVERY_TOKEN,
        "ForMaskedLM": HeadNames(
            "masked",
            dense="cls.predictions.transform.dense",
            activation="hidden",
            norm="cls.predictions.transform.LayerNorm",
            output="cls.predictions",
            decoder="cls.predictions.decoder",
        ),
    },
)

_ROBERTA = replace(
    _BERT,
    class_name="Roberta",
    prefix="roberta",
    counts_padding=True,
    heads={
        "ForSequenceClassification": HeadNames(
            "sequence",
            labels=True,
            dense="classifier.dense",
            activation="tanh",
            output="classifier.out_proj",
        ),
        **_EVERY_TOKEN,
        "ForMaskedLM": HeadNames(
            "masked",
            dense="lm_head.dense",
            activation="gelu",
            norm="lm_head.layer_norm",
            output="lm_head",
            decoder="lm_head.decoder",
        ),
    },
)

_DISTILBERT = Family(
    class_name="DistilBert",
    prefix="distilbert",
    layers="transformer.layer",
    linears={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attn_out": "attention.out_lin",
        "ffn_in": "ffn.lin1",
        "ffn_out": "ffn.lin2",
    },
    attention="attention",
    norms={"attn_norm": "sa_layer_norm", "ffn_norm": "output_layer_norm"},
    tables={kind: _TABLES[kind] for kind in ("word", "position")},
    keys={
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "hidden_act": "activation",
    },
    norm_eps=1e-12,
    heads={
        "ForSequenceClassification": HeadNames(
            "sequence", labels=True, dense="pre_classifier", activation="relu", output="classifier"
        ),
        **_EVERY_TOKEN,
        "ForMaskedLM": HeadNames(
            "masked",
            dense="vocab_transform",
            activation="hidden",
            norm="vocab_layer_norm",
            output="vocab_projector",
            decoder="vocab_projector",
        ),
    },
)

_ELECTRA = replace(
    _BERT,
    class_name="Electra",
    prefix="electra",
    projection="embeddings_project",
    heads={
        "ForSequenceClassification": HeadNames(
            "sequence",
            labels=True,
            dense="classifier.dense",
            activation="gelu",
            output="classifier.out_proj",
        ),
        **_EVERY_TOKEN,
        "ForMaskedLM": HeadNames(
            "masked",
            dense="generator_predictions.dense",
            activation="gelu",
            norm="generator_predictions.LayerNorm",
            output="generator_lm_head",
            decoder="generator_lm_head",
        ),
    },
)

_ALBERT = Family(
    class_name="Albert",
    prefix="albert",
    layers="encoder.albert_layer_groups",
    inner_layers="albert_layers",
    linears={
        "query": "attention.query",
        "key": "attention.key",
        "value": "attention.value",
        "attn_out": "attention.dense",
        "ffn_in": "ffn",
        "ffn_out": "ffn_output",
    },
    attention="attention",
    norms={"attn_norm": "attention.LayerNorm", "ffn_norm": "full_layer_layer_norm"},
    tables=_TABLES,
    projection="encoder.embedding_hidden_mapping_in",
    always_projects=True,
    activation="gelu_new",
    heads={
        "ForSequenceClassification": HeadNames(
            "sequence", labels=True, dense="albert.pooler", activation="tanh", output="classifier"
        ),
        **_EVERY_TOKEN,
        "ForMaskedLM": HeadNames(
            "masked",
            dense="predictions.dense",
            activation="hidden",
            norm="predictions.LayerNorm",
            output="predictions",
            decoder="predictions.decoder",
        ),
    },
)

# model_type in config.json -> the family
FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": replace(_ROBERTA, class_name="XLMRoberta"),
    "camembert": replace(_ROBERTA, class_name="Camembert"),
    "distilbert": _DISTILBERT,
    "electra": _ELECTRA,
    "albert": _ALBERT,
}

# Encoders that people ask for, and what stands in the way.
NOT_SUPPORTED: Mapping[str, str] = {
    "mpnet": "its attention adds a bias by the distance of two tokens, which the engine's does not",
    "deberta": "its attention has terms for relative positions, which the engine's has not",
    "deberta-v2": "its attention has terms for relative positions, which the engine's has not",
    "longformer": "its attention looks through a window, which the engine's does not",
    "big_bird": "its attention looks at blocks, which the engine's does not",
    "modernbert": "it rotates query and key by position and has gated layers, which the engine does not know",
    "nomic_bert": "it rotates query and key by position and has gated layers, which the engine does not know",
    "roberta-prelayernorm": "its norms stand before the layers, not behind them",
    "xlm-roberta-xl": "its norms stand before the layers, not behind them",
    "mobilebert": "its layers have bottlenecks, which the engine does not know",
    "squeezebert": "its layers are grouped convolutions",
    "funnel": "its layers shorten the sequence, which the engine's do not",
}


def unsupported_family(subject: str, model_type: object) -> str:
    """Returns the sentence that refuses a model.

    Args:
        subject: What is refused, as the subject of a sentence.
        model_type: Its family.
    """
    reason = NOT_SUPPORTED.get(model_type) if isinstance(model_type, str) else None
    because = f" ({reason})" if reason else ""
    shown = repr(model_type)[:80]
    return f"{subject} is of the family {shown}{because}; supported: {', '.join(FAMILIES)}."
