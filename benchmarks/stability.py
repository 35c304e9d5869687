"""How much a score moves when the ruler is made anew: other test tokens, another bootstrap seed.

    python benchmarks/stability.py --suite mnist --sae batchtopk-128-k11 --sae relu-128-c0.4

- *CV*: the standard deviation of the score over random halves of the test documents, as a share of
  it. A half drawn without replacement varies about the whole as a test set of the full size does
  about the truth: half the tokens double the variance, and drawing half of a finite set halves it.
- *Covered*: the share of halves whose score lies within the whole's 95% interval.
- *Reseeded*: the largest change of the score under ten other seeds of the bootstrap, which decide
  which steps are measured, as a share of the width of its interval.
- *Least difference*: 1.96·√2 standard deviations, unpaired; and 1.96 standard deviations of the
  difference to the first SAE over the same halves, paired.
"""

from __future__ import annotations

import argparse
from statistics import mean, median

from mdlbench.papers.reliability.halves import Limit, Score, measure
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.targets import target_site, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="mnist")
    parser.add_argument("--sae", action="append", default=[])
    parser.add_argument("--quantiser")
    asked = parser.parse_args()
    suite = load_suite(asked.suite)
    opener = Opener(suite, Setting("cpu", None, None, "float32", cache=False))
    executor = InProcess(opener)
    first: dict[Limit, Score] = {}
    found: list[Score] = []
    print(f"{'SAE':24}{'tolerance':>18}{'bits':>9}{'CV':>8}{'covered':>9}{'reseeded':>10}", end="")
    print(f"{'least difference, unpaired':>28}{'paired':>9}")
    for target in targets(suite, asked.sae or suite.keys, adapter=None):
        bench = Bench.open(executor, target_site(opener, target), asked.quantiser)
        for score in measure(bench, target):
            found.append(score)
            anchor = first.setdefault(score.limit, score)
            deviation = float(score.halves.std(ddof=1))
            paired = 1.96 * float((score.halves - anchor.halves).std(ddof=1))
            print(
                f"{score.sae:24}{f'{score.limit[0]} {score.limit[1]:g}':>18}{score.bits:9.2f}"
                f"{deviation / score.bits:8.2%}{score.covered:9.1%}{score.reseeded:10.3f}"
                f"{1.96 * 2**0.5 * deviation:28.2f}"
                f"{'–' if anchor is score else format(paired, '.2f'):>9}",
                flush=True,
            )
    for metric in suite.metrics:
        of_metric = [score for score in found if score.limit[0] == metric]
        if of_metric:
            cvs = [score.halves.std(ddof=1) / score.bits for score in of_metric]
            covered = mean(score.covered for score in of_metric)
            reseeded = max(score.reseeded for score in of_metric)
            print(
                f"{metric}: CV median {median(cvs):.2%}, largest {max(cvs):.2%}; covered "
                f"{covered:.1%}; reseeding the bootstrap moves no score by more than "
                f"{reseeded:.3f} of its interval ({len(of_metric)} scores)"
            )


if __name__ == "__main__":
    main()
