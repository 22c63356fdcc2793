"""Which way of choosing among the surrogates chooses well: predicting left-out measurements, or marginal likelihood.

Properties that the image shows (needles between nanoparticles, the unmixed map of a film), that it shows in part (the
film's nickel with 3 % noise), that it does not show at all (waves under a noisy image), and both together. From points
drawn at random every surrogate predicts all candidates; what each criterion would have chosen is compared with the one
that was the best, by R² and by the log density of the other candidates' true values. The deep kernel is judged by its
descriptors, as in ``surrogate="auto"``.

    python benchmarks/explorer_auto.py --first 10 --seeds 8
"""

from __future__ import annotations

import argparse

import explorer_needle
import explorer_nio_lsmo
import numpy as np
import torch

from stem_ae.descriptors.windows import Windows
from stem_ae.explore import Explorer

SURROGATES = {
    "descriptor": {"surrogate": "descriptor"},
    **{f"gp-{kernel}": {"surrogate": "gp", "kernel": kernel} for kernel in ("matern52", "rbf", "rq")},
}
CRITERIA = ("left-out", "likelihood", "likelihood less complexity")


def cases(first, count):
    """Yield kind, explorer's settings, true values of the candidates and the noise of a measurement."""
    for seed in range(first, first + count):
        image, target = explorer_needle.specimen(seed)
        windows = Windows.regular(image, 16)
        place = tuple(windows.centres.T)
        yield "needle", {"image": image, "patch": 16}, target[place], 0.0
        noisy = np.random.default_rng(seed).normal(size=image.shape)
        waves = np.sin(np.indices(image.shape)[0] / 9 + seed) * np.cos(np.indices(image.shape)[1] / 13)
        yield "position", {"image": noisy, "patch": 16}, waves[place], 0.0
        yield "both", {"image": image, "patch": 16}, (target / target.std() + waves / waves.std())[place], 0.0
    for seed in range(first, first + max(count // 3, 1)):
        image, windows, nickel = explorer_nio_lsmo.survey(seed)
        film = {"image": image, "patch": explorer_nio_lsmo.WINDOW, "candidates": windows.centres, "sampling": 0.4}
        yield "film, unmixed", film, explorer_nio_lsmo.abundance(windows, seed).ravel(), 0.0
        yield "film, nickel", film, nickel.ravel(), 0.03


def judge(settings, truth, noise, n, seed):
    """Return for each surrogate its scores, and its R² and log density where nothing was measured."""
    rng = np.random.default_rng(seed)
    known = rng.choice(len(truth), n, replace=False)
    held = np.setdiff1d(np.arange(len(truth)), known)
    values = truth[known] + rng.normal(0, 1, n) * noise
    results = {}
    for name, surrogate in SURROGATES.items():
        explorer = Explorer(**settings, **surrogate)
        explorer.tell(explorer.candidates[known], values)
        prediction = explorer._predict()
        mean, std = prediction.mean[held], np.hypot(prediction.std[held], 1e-3 * truth.std())
        parameters = len(prediction._posterior.process.log_parameters)
        likelihood = prediction.likelihood_score()
        density = -0.5 * ((truth[held] - mean) / std) ** 2 - np.log(std / truth.std())
        results[name] = {
            "left-out": prediction.left_out_score(), "likelihood": likelihood,
            "likelihood less complexity": likelihood - 0.5 * parameters * np.log(n) / n,  # Schwarz, Ann. Stat. 6 (1978)
            "r2": 1 - float(np.mean((truth[held] - mean) ** 2) / truth[held].var()),
            "density": float(np.maximum(density, -50).mean()),
        }
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--points", type=int, nargs="*", default=[20, 50, 100])
    parser.add_argument("--noise", type=float, default=0.0, help="of measurements, in standard deviations of the map")
    parser.add_argument("--kinds", nargs="*", help="only these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind, settings, truth, noise in cases(options.first, options.seeds):
        for n in options.points if kind in (options.kinds or [kind]) else ():
            results = judge(settings, truth, max(noise, options.noise * truth.std()), n, n)
            for criterion in CRITERIA:
                chosen = max(results, key=lambda name, by=criterion: results[name][by])
                lost = {key: max(r[key] for r in results.values()) - results[chosen][key] for key in ("r2", "density")}
                rows.append({"kind": kind, "n": n, "criterion": criterion, "chosen": chosen, **lost})
                print(rows[-1], flush=True)
    for by in ("kind", "n"):
        for group in sorted({row[by] for row in rows}):
            for criterion in CRITERIA:
                some = [row for row in rows if row[by] == group and row["criterion"] == criterion]
                print(f"{group!s:16s}{criterion:28s}best chosen {np.mean([row['r2'] == 0 for row in some]):.2f}  "
                      f"R² lost {np.mean([row['r2'] for row in some]):.3f} "
                      f"(most {max(row['r2'] for row in some):.2f})  "
                      f"log density lost {np.mean([row['density'] for row in some]):.3f}")


if __name__ == "__main__":
    main()
