"""Time per frame of our ensemble beside AtomAI's ensemble of the same size, in the same run.

    python -m venv atomai-environment
    atomai-environment/bin/pip install torch==2.13.0 atomai six      # six is missing from AtomAI's own requirements
    python benchmarks/peer_atomai.py --peer atomai-environment/bin/python

AtomAI's default U-Net is used with random weights: the time does not depend on them. Since such networks find nothing
sensible, its atoms are located in a map of the true columns. Both sides: one thread, the same frames, turn by turn.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZES = (512, 896)
MEMBERS = 5


def timed(work: Callable[[], int]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    atoms = work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "atoms": atoms}


# --- AtomAI's side: its own process, which knows nothing of stem_ae -------------------------------------------------


def answer_as_atomai(folder: pathlib.Path) -> None:
    """Read a size per line from standard input, write the time that its frame took."""
    import torch

    # PyPI's torchvision may not fit a CPU build of torch; AtomAI never calls the two operators that it then misses.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import atomai
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    networks = [atomai.models.Segmentor("Unet", nb_classes=3, seed=seed).net for seed in range(MEMBERS)]
    weights = {k: network.state_dict() for k, network in enumerate(networks)}
    print(json.dumps({"version": atomai.__version__}), flush=True)
    for line in sys.stdin:
        data = np.load(folder / f"{int(line)}.npz")
        predictor = atomai.predictors.EnsemblePredictor(networks[0], weights, nb_classes=3, use_gpu=False)

        def work(data: Any = data, predictor: Any = predictor) -> int:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
                predictor.predict(data["counts"])
                return len(atomai.predictors.Locator(threshold=0.5).run(data["probability"][None])[0])

        print(json.dumps(timed(work)), flush=True)


# --- ours -----------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="the Python that has AtomAI")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--model", default="graphene", help="name or path of our ensemble")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments.peer, arguments.repeats, arguments.model, pathlib.Path(folder))


def compare(peer: str, repeats: int, model: str, folder: pathlib.Path) -> None:
    import torch
    from frames import frame

    from stem_ae import elit
    from stem_ae.elit.synthesis import target

    torch.set_num_threads(1)
    ensemble = elit.load(model)
    truths = {size: frame("graphene", 1e6, size=(size, size)) for size in SIZES}
    for size, truth in truths.items():
        probability = target(truth.xy, truth.names, ensemble.species, (size, size), truth.sampling)
        background_last = np.roll(probability, -1, axis=0).transpose(1, 2, 0)
        np.savez(folder / f"{size}.npz", counts=truth.counts, probability=background_last)

    def work(size: int) -> int:
        prediction = ensemble.predict(truths[size].counts, truths[size].sampling)
        _ = prediction.probability, prediction.uncertainty  # maps of the image's size, as AtomAI returns them
        return len(prediction.atoms)

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [peer, "-W", "ignore", str(pathlib.Path(__file__).resolve()), "--as-atomai", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers = (json.loads(line) for line in process.stdout if line.startswith("{"))
        version = next(answers)["version"]
        print(f"Ensembles of {len(ensemble.members)} (stem_ae, {ensemble.version}) and {MEMBERS} (AtomAI {version}); "
              f"median of {repeats}, one thread each, turn by turn\n")
        print("| frame | who | CPU-s | wall s | fastest wall s | atoms |")
        print("|---|---|---|---|---|---|")
        for size in SIZES:
            times: dict[str, list[dict[str, float]]] = {"stem_ae": [], "AtomAI": []}
            for _ in range(repeats + 1):
                times["stem_ae"].append(timed(lambda size=size: work(size)))
                process.stdin.write(f"{size}\n")
                times["AtomAI"].append(next(answers))
            for who, all_of_them in times.items():
                warm = all_of_them[1:]
                cpu, wall = ([t[key] for t in warm] for key in ("cpu", "wall"))
                print(f"| {size} x {size} | {who} | {statistics.median(cpu):.2f} | {statistics.median(wall):.2f} "
                      f"| {min(wall):.2f} | {warm[0]['atoms']:.0f} |", flush=True)
        process.stdin.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-atomai"]:
        answer_as_atomai(pathlib.Path(sys.argv[2]))
    else:
        main()
