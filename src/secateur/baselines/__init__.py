"""Simple models beside which a network has to show that it is worth its price."""

from secateur.baselines.baseline import Baseline, good_enough, measure
from secateur.baselines.choice import baselines_of
from secateur.baselines.similarity import TfidfCosine
from secateur.baselines.tfidf import TfidfLinear
from secateur.baselines.words import FrequentTag, WordFeatures

__all__ = [
    "Baseline",
    "FrequentTag",
    "TfidfCosine",
    "TfidfLinear",
    "WordFeatures",
    "baselines_of",
    "good_enough",
    "measure",
]
