"""Every protocol that scores a representation: kNN, linear probes and retrieval, on frozen features."""

from pipeline.evaluation.knn import knn_scores, nearest, normalize, topk_accuracy
from pipeline.evaluation.labelled import Labelled, Scores
from pipeline.evaluation.linear_probe import score_few_labels, score_linear
from pipeline.evaluation.retrieval import score_retrieval
from pipeline.params.evaluate import Evaluate, Knn

FEW_LABELS = {"linear_1pct": 0.01, "linear_10pct": 0.10}


def evaluate(train: Labelled, test: Labelled, params: Evaluate) -> dict[str, Scores]:
    """Every protocol on one subject.

    Args:
        train: what the protocols learn from or look among.
        test: what they are scored on; no choice is made by it.
        params: of the protocols.

    Returns:
        protocol -> figure -> value, fractions from 0 to 1. Few-label probes are left out where a class
        would have fewer than two labels.
    """
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    scores = {
        "knn": score_knn(train, test, num_classes, params.knn),
        "linear": score_linear(train, test, params.linear, params.linear.seed),
    }
    for protocol, fraction in FEW_LABELS.items():
        if round(fraction * len(train.labels)) >= 2 * num_classes:
            scores[protocol] = score_few_labels(train, test, fraction, params.linear)
    return scores | {"retrieval": score_retrieval(train, test, params.retrieval)}


def score_knn(train: Labelled, test: Labelled, num_classes: int, params: Knn) -> Scores:
    """Weighted kNN: `top1` and `top5`. The bank is the training set, so no test image finds itself.

    Raises:
        UserError: k is larger than the training set.

    Source: Wu et al. 2018, arXiv:1805.01978, sec. 3.4.
    """
    similarities, rows = nearest(normalize(test.features), normalize(train.features), params.k)
    votes = knn_scores(similarities, train.labels[rows], num_classes, params.temperature)
    return {f"top{k}": topk_accuracy(votes, test.labels, k) for k in (1, 5)}
