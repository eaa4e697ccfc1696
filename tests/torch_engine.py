"""An engine's double that runs a PyTorch model, and tiny models with real tokenizers to run on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig

MAX_TOKENS = 96

# Products this small gain nothing from a second thread, and wait long for it on a busy machine.
torch.set_num_threads(1)

SENTENCES = [
    "My name is Wolfgang and I live in Berlin, near the Brandenburg Gate.",
    "Hugging Face Inc. is a company based in New York City; its headquarters are in DUMBO.",
    "Book me a table for two tonight at eight, please.",
    "The tower is 324 metres tall, about the same height as an 81-storey building.",
    "Ça va très bien à Montréal, naïve façade!",
    "unbelievable misunderstandings, counterproductive disagreements",
]

SPECIAL = {
    "wordpiece": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "bytes": {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"},
    "unigram": {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"},
}


class TorchEngine:
    """Takes and gives what `secateur.Engine` does, one sequence at a time."""

    def __init__(self, model: Any, folder: Path) -> None:
        self.model = model.eval()
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        config = model.config
        self.labels = [config.id2label[index] for index in range(config.num_labels)]
        offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta") else 0
        self.max_length = config.max_position_embeddings - offset
        self.vocab_size = config.vocab_size
        self.num_token_types = getattr(config, "type_vocab_size", 1)
        self.calls: list[list[int]] = []

    def __call__(
        self,
        input_ids: Sequence[Sequence[int]],
        token_type_ids: Sequence[Sequence[int]] | None = None,
        attention_mask: None = None,
        *,
        positions: Sequence[Sequence[int]] | None = None,
    ) -> Any:
        self.calls.append([len(ids) for ids in input_ids])
        outputs = []
        for index, ids in enumerate(input_ids):
            assert 0 < len(ids) <= self.max_length
            given: dict[str, Any] = {"input_ids": torch.tensor([ids])}
            if token_type_ids is not None:
                given["token_type_ids"] = torch.tensor([token_type_ids[index]])
            with torch.inference_mode():
                output = self._rows(self.model(**given))
            outputs.append(output if positions is None else output[list(positions[index])])
        if type(self.model).__name__.endswith(("SequenceClassification", "Model")):
            return np.stack(outputs)
        return outputs

    def _rows(self, output: Any) -> NDArray[np.float32]:
        if "start_logits" in output:
            return torch.stack([output.start_logits[0], output.end_logits[0]], -1).numpy()
        if "logits" in output:
            return output.logits[0].numpy()
        how = self.config["sentence_embedding"]
        rows = output.last_hidden_state[0]
        pooled = {"mean": rows.mean(0), "cls": rows[0], "max": rows.max(0).values}[how["pooling"]]
        if how["normalize"]:
            pooled = torch.nn.functional.normalize(pooled, dim=0)
        return pooled.numpy()


def real_tokenizer(kind: str) -> Tokenizer:
    """Returns a tokenizer with subwords of `SENTENCES`: wordpiece, bytes or unigram; always the same one."""
    special = list(SPECIAL[kind].values())
    pad, unk, cls, sep, _ = special
    text = " ".join(SENTENCES)
    if kind == "wordpiece":
        letters = sorted(set(text.lower()) - {" "} - set("çàéï"))
        pieces = [
            "wolf",
            "berlin",
            "my",
            "the",
            "is",
            "table",
            "new",
            "york",
            "##gang",
            "##ing",
            "##ment",
            "##s",
        ]
        pieces += ["book", "two", "eight", "under", "##able", "mis", "live", "##standing", "##er", "in"]
        vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters), *pieces]
        vocabulary = list(dict.fromkeys(vocabulary))
        tokenizer = Tokenizer(
            models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token=unk)
        )
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
    elif kind == "bytes":
        merges = [
            ("i", "n"),
            ("Ġ", "a"),
            ("Ġ", "i"),
            ("e", "r"),
            ("in", "g"),
            ("a", "t"),
            ("Ġi", "n"),
            ("Ġ", "t"),
        ]
        merges += [("o", "o"), ("Ġ", "b"), ("oo", "k"), ("Ġb", "ook"), ("Ġt", "a"), ("b", "l"), ("bl", "e")]
        merges += [
            ("Ġta", "ble"),
            ("W", "o"),
            ("Wo", "l"),
            ("B", "er"),
            ("l", "in"),
            ("Ġ", "Ber"),
            ("ĠBer", "lin"),
        ]
        vocabulary = [
            *special,
            *sorted(pre_tokenizers.ByteLevel.alphabet()),
            *("".join(pair) for pair in merges),
        ]
        tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocabulary)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        letters = sorted(set(text) - {" "} - set("ç"))
        pieces = [
            "▁",
            "▁the",
            "▁in",
            "ing",
            "▁table",
            "▁Berlin",
            "▁Book",
            "er",
            "an",
            "▁My",
            "▁is",
            "ment",
            "s",
        ]
        scored = [*((token, 0.0) for token in special)]
        scored += [(piece, -2.0) for piece in pieces] + [
            (letter, -6.0) for letter in letters if letter != "s"
        ]
        tokenizer = Tokenizer(models.Unigram(scored, unk_id=special.index(unk)))
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    ids = {token: tokenizer.token_to_id(token) for token in (cls, sep)}
    if kind == "wordpiece":
        single, pair = f"{cls} $A {sep}", f"{cls} $A {sep} $B:1 {sep}:1"
    else:
        single, pair = f"{cls} $A {sep}", f"{cls} $A {sep} {sep} $B {sep}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=list(ids.items())
    )
    return tokenizer


def tiny_model(
    folder: Path,
    head: str,
    kind: str = "wordpiece",
    family: str = "",
    seed: int = 0,
    spread: float = 0.4,
    **changes: Any,
) -> Any:
    """Saves a tiny model with its tokenizer as transformers does, and returns it.

    Args:
        folder: Where to.
        head: Its class, as "AutoModelForTokenClassification".
        kind: Of tokenizer; see `real_tokenizer`.
        family: Of model; by default bert for wordpiece and roberta for the others.
        seed: Of the weights.
        spread: Standard deviation of the weights.
        **changes: Go into the config.
    """
    import transformers

    tokenizer = real_tokenizer(kind)
    special = SPECIAL[kind]
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": MAX_TOKENS,
        "initializer_range": spread,
        "pad_token_id": tokenizer.token_to_id(special["pad"]),
    }
    family = family or ("bert" if kind == "wordpiece" else "roberta")
    if family == "roberta":
        sizes |= {"type_vocab_size": 1, "max_position_embeddings": MAX_TOKENS + sizes["pad_token_id"] + 1}
    embedding = changes.pop("sentence_embedding", None)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**sizes, **changes})
    model = getattr(transformers, head).from_config(config).eval()
    if embedding is not None:
        model.config.sentence_embedding = embedding
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    written: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_TOKENS,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]
        if kind == "wordpiece" and family != "distilbert"
        else ["input_ids", "attention_mask"],
    }
    written |= {f"{name}_token": token for name, token in special.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(written))
    return model
