"""Three kinds of tokenizers, made by hand: word pieces, bytes, and pieces with a space in front."""

from __future__ import annotations

import string

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = ["book", "table", "berlin", "john", "the", "is", "in", "who", "##s", "##in", "##ing", "new", "york"]


def word_pieces() -> Tokenizer:
    """As BERT's: lower case, accents stripped, letters where a word is not known, [UNK] for anything else."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *letters,
        *(f"##{one}" for one in letters),
    ]
    ids = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=10_000))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def byte_pairs(trim_offsets: bool = True) -> Tokenizer:
    """As RoBERTa's, without merges: a token a byte, so that a character may have several."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), trim_offsets=trim_offsets, add_prefix_space=False
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


def spaced_pieces() -> Tokenizer:
    """As XLM-RoBERTa's: pieces of a unigram model, the first of a word with a space in front."""
    singles = [*string.ascii_lowercase, *string.ascii_uppercase, *string.punctuation, *string.digits]
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<mask>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS if not word.startswith("#")]
    pieces += [(one, -6.0) for one in singles]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


ALL = {
    "word pieces": word_pieces,
    "bytes": byte_pairs,
    "bytes with spaces": lambda: byte_pairs(trim_offsets=False),
    "spaced pieces": spaced_pieces,
}

# Texts that trip offsets: emoji of several code points, combining characters, right to left, very long words.
ODD_WORDS = [
    "book",
    "Berlin",
    "naïve",
    "cafe\u0301",
    "👩‍👩‍👧",
    "🇩🇪",
    "שלום",
    "東京",
    "John's",
    "e.g.,",
    "x" * 40,
    "(new)",
    "\u200b\u200b",
    "ǆ",
    "ﬁn",
]
