"""evaluate, predict and inspect on models of every task."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from command_line import Run
from torch_engine import SENTENCES, tiny_model

from secateur.commands.options import Task
from secateur.export import export_checkpoint
from secateur.tasks import TASKS, QuestionAnswering

pytest.importorskip("secateur._engine")

LABELS = {"id2label": {0: "no", 1: "yes"}}
TAGS = {"id2label": {0: "O", 1: "B-LOC", 2: "I-LOC"}}
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "pair": ("AutoModelForSequenceClassification", LABELS),
    "multi-label": (
        "AutoModelForSequenceClassification",
        {**LABELS, "problem_type": "multi_label_classification"},
    ),
    "regression": (
        "AutoModelForSequenceClassification",
        {"num_labels": 1, "problem_type": "regression"},
    ),
    "token": ("AutoModelForTokenClassification", TAGS),
    "question": ("AutoModelForQuestionAnswering", {}),
    "mask": ("AutoModelForMaskedLM", {}),
    "embedding": ("AutoModel", {"sentence_embedding": {"pooling": "mean", "normalize": True}}),
}
WORDS = ["book", "me", "a", "table", "for", "two", "in", "Berlin"]
ROWS: dict[str, list[dict[str, Any]]] = {
    "pair": [
        {"premise": SENTENCES[n % 6][:60], "hypothesis": f"{n} tables", "gold": ("no", "yes")[n % 2]}
        for n in range(8)
    ],
    "multi-label": [
        {"text": SENTENCES[n % 6][:60], "labels": (["no"], ["no", "yes"])[n % 2]} for n in range(8)
    ],
    "regression": [{"text": SENTENCES[n % 6][:60], "score": n / 3 + 0.1} for n in range(6)],
    "token": [{"tokens": WORDS[n:], "ner_tags": ["O"] * (7 - n) + ["B-LOC"]} for n in range(6)],
    "question": [
        {
            "question": "Where?",
            "context": SENTENCES[0] * 2,
            "answers": {"text": ["Berlin"], "answer_start": [SENTENCES[0].index("Berlin")]},
        }
    ],
    "mask": [{"text": text[:60]} for text in SENTENCES],
    "embedding": [
        {"sentence1": SENTENCES[n][:50], "sentence2": SENTENCES[n - 1][:50], "score": n / 5} for n in range(6)
    ],
}
SCORES = {
    "pair": {"accuracy", "macro_f1"},
    "multi-label": {"micro_f1", "macro_f1", "subset_accuracy"},
    "regression": {"spearman", "pearson", "rmse"},
    "token": {"f1", "precision", "recall", "f1_by_type", "accuracy"},
    "question": {"exact_match", "f1"},
    "mask": {"accuracy", "perplexity"},
    "embedding": {"spearman", "pearson"},
}
NAMES = {
    "pair": ("--column", "label=gold", "--column", "text=premise", "--column", "text_pair=hypothesis"),
    "token": ("--text", "tokens", "--label", "ner_tags"),
    "embedding": ("--text", "sentence1", "--label", "score", "--column", "text_pair=sentence2"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A checkpoint of each head, and the dense model that it is made of."""
    found = {}
    for name, (head, changes) in HEADS.items():
        dense = tmp_path_factory.mktemp(name)
        model = tiny_model(dense, head, **changes)
        tokenizer = transformers.AutoTokenizer.from_pretrained(dense)
        found[name] = export_checkpoint(model, tokenizer, dense / "checkpoint"), dense
    return found


def write_rows(folder: Path, name: str) -> Path:
    path = folder / "data" / "test.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    return path.parent


@pytest.mark.parametrize("name", HEADS)
def test_both_engines_measure_the_same(run: Run, models: Any, tmp_path: Path, name: str) -> None:
    compressed, dense = models[name]
    data = write_rows(tmp_path, name)
    arguments = ("--data", data, "--json", "-", *NAMES.get(name, ()))
    scored = []
    for folder, engine in ((compressed, "secateur"), (compressed, "pytorch"), (dense, "pytorch")):
        done = run("evaluate", folder, "--engine", engine, *arguments)
        assert done.status == 0, done.err
        scored.append(json.loads(done.out))
        assert scored[-1]["engine"] == engine
        assert SCORES[name] <= set(scored[-1])
    for other in scored[1:]:
        for figure in (*SCORES[name], "n"):
            assert other[figure] == pytest.approx(scored[0][figure], abs=1e-2, rel=1e-3), figure
    table = run("evaluate", compressed, "--data", data, *NAMES.get(name, ()))
    assert table.status == 0
    assert f": {scored[0]['task']}, engine secateur" in table.out
    assert "columns: " in table.err


def test_a_task_is_told_what_to_do(
    run: Run, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    encode = QuestionAnswering.encode

    def spy(task: QuestionAnswering, *arguments: Any) -> Any:
        seen.append((task.window, task.doc_stride, task.max_answer_tokens, task.null_threshold))
        seen.append(encode(task, *arguments))
        return seen[-1]

    monkeypatch.setattr(QuestionAnswering, "encode", spy)
    data = write_rows(tmp_path, "question")
    said = ("--max-seq-len", 40, "--doc-stride", 8, "--max-answer-len", 3, "--null-threshold", 0.5)
    for engine in ("secateur", "pytorch"):
        done = run("evaluate", models["question"][0], "--data", data, "--engine", engine, *said)
        assert done.status == 0, done.err
        *_, told, encoded = seen
        assert told == (40, 8, 3, 0.5)
        assert max(map(len, encoded.input_ids)) == 40


def test_the_share_of_masks(run: Run, models: Any, tmp_path: Path) -> None:
    data = write_rows(tmp_path, "mask")
    counts = []
    for options in ((), ("--mask-share", 0.5)):
        done = run("evaluate", models["mask"][0], "--data", data, "--json", "-", *options)
        counts.append(json.loads(done.out)["n"])
    assert counts[1] > 2 * counts[0] > 0


def answers(run: Run, *arguments: object) -> list[dict[str, Any]]:
    done = run("predict", *arguments, "--json", "-")
    assert done.status == 0, done.err
    table = run("predict", *arguments)
    assert table.status == 0, table.err
    assert table.out.count("│") > 4
    found: list[dict[str, Any]] = json.loads(done.out)["predictions"]
    return found


def test_predict_pairs(run: Run, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["pair"][0]
    (tabbed, named, single) = answers(
        run, model, "a table\tfor two", '{"text": "a table", "text_pair": "for two"}', "a table"
    )
    assert tabbed == named
    assert (tabbed["text"], tabbed["text_pair"]) == ("a table", "for two")
    assert tabbed["answers"] != single["answers"]
    monkeypatch.setattr("sys.stdin", io.StringIO('a table\tfor two\n\n{"text": "a table"}\n'))
    done = run("predict", model, "--json", "-")
    assert [row["answers"] for row in json.loads(done.out)["predictions"]] == [
        tabbed["answers"],
        single["answers"],
    ]


def test_lines_end_at_line_ends_only(
    run: Run, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\u2028table\ntwo\x0ctables\n"))
    assert run("predict", models["pair"][0], "--json", tmp_path / "a.json").status == 0
    found = json.loads((tmp_path / "a.json").read_text())["predictions"]
    assert [one["text"] for one in found] == ["a\u2028table", "two\x0ctables"]


def test_predict_labels_above_a_threshold(run: Run, models: Any) -> None:
    (found,) = answers(run, models["multi-label"][0], "a table", "--threshold", 0)
    assert sorted(answer["label"] for answer in found["answers"]) == ["no", "yes"]


def test_predict_entities(run: Run, models: Any) -> None:
    (grouped,) = answers(run, models["token"][0], SENTENCES[0])
    assert all(set(one) == {"entity_group", "score", "word", "start", "end"} for one in grouped["answers"])
    (tokens,) = answers(run, models["token"][0], SENTENCES[0], "--aggregation", "none")
    assert all("entity" in one for one in tokens["answers"])
    assert len(tokens["answers"]) >= len(grouped["answers"]) > 0


def test_predict_answers(run: Run, models: Any) -> None:
    model, context = models["question"][0], SENTENCES[0]
    (first,) = answers(run, model, "--question", "Where?", "--context", context)
    (again,) = answers(run, model, "Where?", "--context", context)
    (named,) = answers(run, model, json.dumps({"question": "Where?", "context": context}))
    assert first == again == named
    (best,) = first["answers"]
    assert context[best["start"] : best["end"]] == best["answer"]
    (some,) = answers(run, model, "Where?", "--context", context, "--top-k", 3, "--no-answer")
    assert len(some["answers"]) == 3


def test_predict_words(run: Run, models: Any) -> None:
    (found,) = answers(run, models["mask"][0], "a [MASK] for two", "--target", "table", "--target", "book")
    assert {answer["token_str"] for answer in found["answers"]} == {"table", "book"}
    (several,) = answers(run, models["mask"][0], "a [MASK] for [MASK]", "--top-k", 2)
    assert [len(mask) for mask in several["answers"]] == [2, 2]


def test_predict_vectors(run: Run, models: Any) -> None:
    (found, _) = answers(run, models["embedding"][0], "a table", "for two")
    assert len(found["embedding"]) == 32
    assert sum(number**2 for number in found["embedding"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pair", "for text-classification (2 labels)"),
        ("regression", "for text-classification (1 label)"),
        ("token", "for token-classification (3 labels)"),
        ("question", "for question-answering (start and end)"),
        ("mask", "words)"),
        ("embedding", "(mean of tokens, 32 numbers, of length 1)"),
    ],
)
def test_inspect_says_what_a_model_is_for(run: Run, models: Any, name: str, said: str) -> None:
    done = run("inspect", models[name][0])
    assert done.status == 0, done.err
    assert said in done.out
    assert ": bert for " in done.out
    found = json.loads(run("inspect", models[name][0], "--json", "-").out)
    assert found["task"] in TASKS
    assert found["stored_layers"] == found["shape"]["num_layers"] == 2


def test_inspect_shows_shared_layers(run: Run, tmp_path: Path) -> None:
    model = tiny_model(
        tmp_path / "dense", "AutoModelForSequenceClassification", family="albert", embedding_size=16
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "dense")
    out = export_checkpoint(model, tokenizer, tmp_path / "albert")
    done = run("inspect", out)
    assert "albert for text-classification" in done.out
    assert "2 layers (1 stored, the others share them)" in done.out


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("pair", ("a\tb\tc",), "Text 0 has 2 tabs: one parts the two texts of a pair"),
        ("pair", ('{"text": "a", "label": "b"}',), "Text 0 has the field 'label': known are text, text_pair"),
        ("pair", ('{"text_pair": "a"}',), "Text 0 is a JSON object without 'text': add it"),
        ("pair", ('{"text": ',), "Text 0 begins as a JSON object but is none"),
        ("pair", ("a", "--aggregation", "max"), "--aggregation is of no use to text-classification"),
        ("pair", ("a", "--threshold", 0.5), "threshold is for multi-label models"),
        ("pair", ("a", "--question", "b"), "--question and --context are for question-answering"),
        ("pair", ("a", "--task", "fill-mask"), "holds a model for text-classification, not for fill-mask"),
        ("pair", ("a", "--top-k", 0), "Invalid value for '--top-k'"),
        ("token", ("a", "--top-k", 2), "--top-k is of no use to token-classification"),
        ("token", ("a", "--aggregation", "all"), "aggregation_strategy must be one of none, simple"),
        ("question", ("Where?",), "Text 0 is a question without a context: give --context"),
        ("question", ("--question", "Where?"), "--question needs the text that holds the answer"),
        ("question", ("a", "--question", "b", "--context", "c"), "either with --question or after the model"),
        ("question", ('{"question": "a"}',), "Text 0 is a JSON object without 'context': add it"),
        ("question", ("Where?", "--context", " "), "Context 0 is empty"),
        ("mask", ('{"text": ' + "[" * 100_000,), "begins as a JSON object but is none"),
        ("mask", ("a table",), "Text 0 has no [MASK]"),
        ("mask", ("a [MASK]", "--target", "tablecloth"), "The target 'tablecloth' is not one word"),
        ("embedding", (" ",), "Text 0 is empty"),
    ],
)
def test_predictions_that_cannot_be(
    refused: Run, models: Any, name: str, arguments: tuple[object, ...], said: str
) -> None:
    assert said in refused("predict", models[name][0], *arguments).err


@pytest.mark.parametrize("engine", ["secateur", "pytorch"])
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("pair", ("--doc-stride", 3), "--doc-stride is of no use to text-classification: leave it out"),
        ("question", ("--null-threshold", "nan"), "null_threshold must be a number, but is nan"),
        ("question", ("--mask-share", 0.3), "--mask-share is of no use to question-answering"),
        ("pair", ("--column", "labels=gold"), "--column labels=gold is not ROLE=COLUMN; the roles of text-"),
        ("pair", ("--column", "label"), "--column label is not ROLE=COLUMN"),
        ("pair", ("--column", "label=gold", "--label", "gold"), "the column of label is given twice"),
        ("mask", ("--label", "gold"), "--label gold: fill-mask has no such role"),
        ("pair", ("--column", "label=golden"), "golden"),
        ("pair", ("--task", "fill-mask"), "fill-mask"),
        ("pair", ("--column", "label=gold", "--split", "train"), "The split train has no rows"),
        ("mask", ("--max-seq-len", 1000), "1000"),
    ],
)
def test_measurements_that_cannot_be(
    refused: Run,
    models: Any,
    tmp_path: Path,
    engine: str,
    name: str,
    arguments: tuple[object, ...],
    said: str,
) -> None:
    data = write_rows(tmp_path, name)
    assert said in refused("evaluate", models[name][0], "--data", data, "--engine", engine, *arguments).err


def test_the_names_of_tasks_are_those_of_the_package() -> None:
    assert [task.value for task in Task] == list(TASKS)
