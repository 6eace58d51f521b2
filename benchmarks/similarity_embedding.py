"""Section `embedding`: whether the exact nearest neighbours are in the embedding's shortlist.

Over all tasks and derived ones (class subsets, turned, inverted, noisy, permuted, recoloured, randomly relabelled): of
the five nearest by exact √OTDD, the share within the sixteen nearest by embedding, for a seeded sample of queries.
Derived sets that differ in their labels only are among them, and are also shown apart: does the embedding see labels?
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from report import Check, Options, Section, print_table
from scipy.stats import spearmanr

from search.similarity import Sketch, embed, load_encoder, make_sketch, otdd
from search.tasks import Derivation, ImageDataset, derive, load_dataset

NEAREST, SHORTLIST = 5, 16
QUERIES = 24


def run(options: Options) -> Section:
    """Recall, rank correlation, time, and label-only pairs."""
    encoder = load_encoder()
    tasks = [load_dataset(path) for path in sorted(options.tasks.glob("*.npz"))[: 4 if options.quick else None]]
    named = [pair for task in tasks for pair in _family(task)]
    sketches = [make_sketch(dataset, encoder) for _, dataset in named]
    embed(sketches[0])  # what is computed once is not a dataset's cost
    began = time.process_time()
    embeddings = np.stack([embed(sketch) for sketch in sketches]).astype(np.float64)
    milliseconds = 1e3 * (time.process_time() - began) / len(sketches)
    queries = np.random.default_rng(0).choice(len(sketches), min(QUERIES, len(sketches)), replace=False)
    recalls, correlations = zip(*(_query(int(q), sketches, embeddings) for q in queries), strict=True)
    recall, spearman = float(np.mean(recalls)), float(np.mean(correlations))
    labels = [_labels_only(task, encoder) for task in tasks]
    print_table(
        f"embedding: {len(sketches)} datasets, {len(queries)} queries",
        ["recall@5 in 16", "Spearman, mean", "CPU ms a dataset", "labels only: exact, embedding (median)"],
        [
            [
                f"{recall:.4f}",
                f"{spearman:.4f}",
                f"{milliseconds:.1f}",
                f"{np.median([e for e, _ in labels]):.3f}, {np.median([v for _, v in labels]):.3f}",
            ]
        ],
    )
    figures = {
        "datasets": [name for name, _ in named],
        "queries": [named[q][0] for q in queries],
        "recalls": recalls,
        "spearman": correlations,
        "milliseconds": milliseconds,
        "labels_only": labels,
    }
    checks = [
        Check("embedding: recall@5 within 16", recall, "≥ 0.99", "", recall >= 0.99),
        Check("embedding: CPU time a dataset", milliseconds, "≤ 20", "ms", milliseconds <= 20),
        Check("embedding: least distance of label-only pairs", min(v for _, v in labels), "> 0", "", labels[0][1] > 0),
    ]
    return Section(figures, checks)


def _family(task: ImageDataset) -> list[tuple[str, ImageDataset]]:
    """The task and six derived from it."""
    half = tuple(range(max(2, task.n_classes // 2)))
    changes: dict[str, Derivation] = {
        "first classes": Derivation(classes=half),
        "rot90": Derivation(transform="rot90"),
        "invert": Derivation(transform="invert"),
        "noise": Derivation(transform="noise"),
        "permute_pixels": Derivation(transform="permute_pixels"),
        "random labels": Derivation(labels="random", seed=1),
    }
    return [(task.name, task), *((f"{task.name}, {name}", derive(task, change)) for name, change in changes.items())]


def _query(query: int, sketches: list[Sketch], embeddings: Any) -> tuple[float, float]:
    """Recall and rank correlation of one query against all others."""
    others = np.array([i for i in range(len(sketches)) if i != query])
    exact = np.array([otdd(sketches[query], sketches[i]).distance for i in others])
    approximate = np.linalg.norm(embeddings[others] - embeddings[query], axis=1)
    shortlist = np.argsort(approximate)[:SHORTLIST]
    recall = np.isin(np.argsort(exact)[:NEAREST], shortlist).mean()
    return float(recall), float(spearmanr(exact, approximate).statistic)


def _labels_only(task: ImageDataset, encoder: Any) -> tuple[float, float]:
    """Exact and embedding distance between a task and itself with labels drawn at random."""
    one, other = make_sketch(task, encoder), make_sketch(derive(task, Derivation(labels="random", seed=1)), encoder)
    return otdd(one, other).distance, float(np.linalg.norm(embed(one) - embed(other)))
