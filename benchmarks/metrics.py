"""What judging captions costs: seconds and memory for 5,000 images with 5 references each, as COCO's splits have.

    python benchmarks/metrics.py

It prints two tables, of seconds on one thread and of memory: the peak of the process above what its imports took, the
captions' own included. One is of this project, all of it from strings to numbers, then each metric alone; the other of
pycocoevalcap on the same captions, where that is installed (`pip install pycocoevalcap==1.2`). Each is made in a
process of its own.

The captions are made up. Lengths are about COCO's: 10.5 words on the average, 7 at least. Words are drawn by Zipf's law
from a vocabulary of 10,000, and the captions of an image have most of theirs in common.
"""

import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter

IMAGES = 5000
REFERENCES = 5
VOCABULARY = 10_000
WORDS_OF_A_IMAGE = 20


def captions() -> tuple[list[str], list[list[str]]]:
    """A prediction for each image, and its references."""
    chance = random.Random(0)
    weights = [1 / rank for rank in range(1, VOCABULARY + 1)]
    predictions, references = [], []
    for _ in range(IMAGES):
        seen = [f"word{number}" for number in chance.choices(range(VOCABULARY), weights, k=WORDS_OF_A_IMAGE)]
        prediction, *truths = (
            " ".join(chance.choices(seen, k=7 + min(int(chance.expovariate(1 / 4)), 13))) for _ in range(1 + REFERENCES)
        )
        predictions.append(prediction)
        references.append(truths)
    return predictions, references


def timed(row: str, measured: Callable[[], object]) -> object:
    """What ``measured`` returns, with a row of the table for the seconds it took."""
    start = perf_counter()
    result = measured()
    print(f"  {row:<44}{perf_counter() - start:8.2f} s", flush=True)
    return result


def peak() -> float:
    """The most memory that the process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def judge_by_ours() -> None:
    """Print the table of this project."""
    from captioning.metrics import score
    from captioning.metrics.corpus import Corpus
    from captioning.metrics.scores import METRICS

    imports = peak()
    predictions, references = captions()
    training = set(predictions[::2])
    scores = timed("all metrics", lambda: score(predictions, references, training_captions=training))
    timed("95 % intervals, 2,000 resamples", scores.intervals)
    print(f"  {'memory':<44}{peak() - imports:8.0f} MB")
    print("of which")
    corpus = timed("normalization", lambda: Corpus(predictions, references, training_captions=training))
    for metric in METRICS:
        timed(", ".join(metric.names), lambda metric=metric: metric.statistics(corpus))


def judge_by_coco() -> None:
    """Print the table of pycocoevalcap, which takes captions that are normalized."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    imports = peak()
    predictions, references = captions()
    gts = dict(enumerate(references))
    res = {number: [prediction] for number, prediction in enumerate(predictions)}
    timed("bleu1, bleu2, bleu3, bleu4", lambda: Bleu(4).compute_score(gts, res, verbose=0))
    timed("rouge_l", lambda: Rouge().compute_score(gts, res))
    timed("cider", lambda: Cider().compute_score(gts, res))
    print(f"  {'memory':<44}{peak() - imports:8.0f} MB")


ARMS = {"captioning": judge_by_ours, "pycocoevalcap": judge_by_coco}


def main() -> None:
    """Run each arm in a process of its own, on one thread."""
    for arm in filter(find_spec, ARMS):
        print(f"{arm}, {IMAGES:,} images with {REFERENCES} references each", flush=True)
        subprocess.run([sys.executable, __file__, arm], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


if __name__ == "__main__":
    ARMS[sys.argv[1]]() if len(sys.argv) > 1 else main()
