from __future__ import annotations

import numpy as np
import pytest
from task_tokenizers import word_pieces

from secateur.errors import DataError, UnsupportedError
from secateur.tasks.sentence_embeddings import Row, SentenceEmbeddings, cosines, retrieval_scores


def test_the_kind_is_what_rows_hold() -> None:
    guess = SentenceEmbeddings.from_rows
    assert guess([Row("a")]).kind == "texts"
    assert guess([Row("a", "b")]).kind == "pairs"
    assert guess([Row("a", "b", 0.5)]).kind == "similarity"
    assert guess([Row("a", "b", 0.5)], kind="texts").adapt(Row("a", "b", 0.5)) == Row("a")
    with pytest.raises(DataError, match="'text_pair' is missing"):
        guess([Row("a", "b")]).adapt(Row("a"))
    with pytest.raises(DataError, match="'similarity' is missing"):
        guess([Row("a", "b", 0.5)]).adapt(Row("a", "b"))
    with pytest.raises(DataError, match="give similarity, pairs, texts"):
        guess([Row("a")], kind="triplets")


def test_columns_of_labels_count_beside_a_pair_only() -> None:
    assert SentenceEmbeddings.guess(["text", "label"]) == {"text": "text"}
    found = SentenceEmbeddings.guess(["sentence1", "sentence2", "score", "idx"])
    assert found == {"text": "sentence1", "text_pair": "sentence2", "similarity": "score"}
    assert SentenceEmbeddings.parse({"text": "a", "text_pair": "b", "similarity": "2.5"}).similarity == 2.5
    with pytest.raises(DataError, match="'similarity' must be a number"):
        SentenceEmbeddings.parse({"text": "a", "text_pair": "b", "similarity": "entailment"})


def test_both_sides_are_features() -> None:
    task = SentenceEmbeddings("pairs")
    rows = [Row("the book", "berlin"), Row("new", "new york")]
    encoded = task.encode(word_pieces(), rows, 16)
    assert encoded.rows == [0, 0, 1, 1]
    assert [len(ids) for ids in encoded.input_ids] == [4, 3, 3, 4]
    assert task.targets(rows, encoded) == [{}] * 4


def test_similarity_is_scored_by_ranks_of_cosines() -> None:
    task = SentenceEmbeddings("similarity")
    rows = [Row("a", "b", 0.0), Row("c", "d", 3.0), Row("e", "f", 5.0)]
    vectors = [[1, 0], [0, 2], [1, 0], [3, 3], [1, 1], [9, 9]]
    outputs = [np.array(vector, np.float32) for vector in vectors]
    result = task.score(rows, task.encode(word_pieces(), rows, 16), outputs)
    assert result["spearman"] == pytest.approx(1)
    expected = np.corrcoef([0, 1 / np.sqrt(2), 1], [0, 3, 5])[0, 1]
    assert result["pearson"] == pytest.approx(expected)
    assert result["n"] == 3
    assert cosines(np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32))[0] == 0.0


def test_retrieval_is_that_of_a_search_through_all() -> None:
    rng = np.random.default_rng(0)
    asked = [f"q{i % 9}" for i in range(20)]
    right = [f"t{i % 13}" for i in range(20)]
    by_text = {text: rng.normal(size=4) for text in dict.fromkeys(right)}
    by_query = {query: rng.normal(size=4) for query in dict.fromkeys(asked)}
    queries = np.array([by_query[query] for query in asked], np.float32)
    texts = np.array([by_text[text] for text in right], np.float32)
    found = retrieval_scores(queries, texts, asked, right)
    ranks = []
    for query, vector in by_query.items():
        fits = {text for one, text in zip(asked, right, strict=True) if one == query}
        near = {
            text: vector @ other / np.linalg.norm(vector) / np.linalg.norm(other)
            for text, other in by_text.items()
        }
        best = max(near[text] for text in fits)
        ranks.append(1 + sum(value > best for text, value in near.items() if text not in fits))
    assert found["n"] == 9
    assert found["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    for k in (1, 5, 10):
        assert found[f"recall@{k}"] == np.mean([rank <= k for rank in ranks])


def test_vectors_that_are_all_equal_find_nothing_first() -> None:
    names = [str(i) for i in range(11)]
    same = np.ones((11, 3), np.float32)
    assert retrieval_scores(same, same, names, names)["recall@1"] == 0.0


def test_answers_are_vectors() -> None:
    task = SentenceEmbeddings()
    rows = [Row("a"), Row("b", "c")]
    outputs = [np.array(vector, np.float32) for vector in ([1, 2], [1, 0], [1, 1])]
    one, two = task.answers(rows, task.encode(word_pieces(), rows, 16), outputs)
    assert one == {"embedding": [1.0, 2.0]}
    assert two["embedding_pair"] == [1.0, 1.0]
    assert two["cosine"] == pytest.approx(1 / np.sqrt(2))


def test_impossible_things_are_refused() -> None:
    task = SentenceEmbeddings()
    encoded = task.encode(word_pieces(), [Row("a")], 16)
    with pytest.raises(DataError, match="Plain texts have nothing to score"):
        task.score([Row("a")], encoded, [np.ones(2, np.float32)])
    with pytest.raises(DataError, match="no option 'top_k'"):
        task.answers([Row("a")], encoded, [np.ones(2, np.float32)], top_k=1)
    with pytest.raises(UnsupportedError, match="pooling must be one of mean, cls, max"):
        SentenceEmbeddings.from_config({"sentence_embedding": {"pooling": "last"}})
    made = SentenceEmbeddings.from_config({"sentence_embedding": {"pooling": "cls", "normalize": False}})
    assert made.config() == {"sentence_embedding": {"pooling": "cls", "normalize": False}}
    assert SentenceEmbeddings.from_config({}).config()["sentence_embedding"]["pooling"] == "mean"
