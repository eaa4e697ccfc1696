"""Texts in, answers out: one file a task, and what they share."""

from secateur.runtime.pipelines.entry import PIPELINES, pipeline, pipeline_of
from secateur.runtime.pipelines.fill_mask import FillMaskPipeline
from secateur.runtime.pipelines.outputs import outputs_of
from secateur.runtime.pipelines.pipeline import Pipeline
from secateur.runtime.pipelines.question_answering import QuestionAnsweringPipeline
from secateur.runtime.pipelines.sentence_embeddings import SentenceEmbeddingsPipeline
from secateur.runtime.pipelines.text_classification import TextClassificationPipeline
from secateur.runtime.pipelines.token_classification import TokenClassificationPipeline

__all__ = [
    "PIPELINES",
    "FillMaskPipeline",
    "Pipeline",
    "QuestionAnsweringPipeline",
    "SentenceEmbeddingsPipeline",
    "TextClassificationPipeline",
    "TokenClassificationPipeline",
    "outputs_of",
    "pipeline",
    "pipeline_of",
]
