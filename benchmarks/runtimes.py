"""The bundled ensemble on the runtimes that a CPU offers: time per frame, turn by turn, and how far the answers differ.

    pip install onnx onnxruntime      # for those rows; torch.compile needs a C++ compiler
    python benchmarks/runtimes.py [--size 512] [--repeats 7] [--threads 1]
    python benchmarks/runtimes.py --size 1024 --members 20          # the figure for a GPU, where there is one

Networks only: what comes before and after them is the same for all. The last line is of all that a prediction does.
"""

from __future__ import annotations

import argparse
import copy
import io
import statistics
import time
import warnings
from collections.abc import Callable

import frames
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stem_ae import elit
from stem_ae.elit.inference import Inference
from stem_ae.elit.network import MULTIPLE, fused
from stem_ae.elit.preprocess import as_image, to_working_grid

Answer = Callable[[], NDArray[np.float32]]


class Together(nn.Module):
    """All members in one graph."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: Tensor) -> Tensor:
        """Return the class probabilities of all members, ``(M, 1 + C, h, w)``."""
        return torch.softmax(torch.cat([member(image) for member in self.members]), 1)


def eager(together: Together, image: Tensor) -> Answer:
    """PyTorch as it is, channels first and batch normalisation folded in."""
    return lambda: together(image).numpy()


def channels_last(together: Together, image: Tensor) -> Answer:
    """PyTorch with channels last, as stem_ae uses it."""
    last, x = together.to(memory_format=torch.channels_last), image.contiguous(memory_format=torch.channels_last)
    return lambda: last(x).numpy()


def bfloat16(together: Together, image: Tensor) -> Answer:
    """PyTorch with channels last and numbers of half the size."""
    return _elsewhere(together, image, "cpu", torch.bfloat16)


def gpu(together: Together, image: Tensor) -> Answer:
    """PyTorch on a GPU, kernel by kernel."""
    return _elsewhere(together, image, "cuda", torch.float32)


def gpu_bfloat16(together: Together, image: Tensor) -> Answer:
    """PyTorch on a GPU with numbers of half the size."""
    return _elsewhere(together, image, "cuda", torch.bfloat16)


def _elsewhere(together: Together, image: Tensor, device: str, kind: torch.dtype) -> Answer:
    last = together.to(device, kind, memory_format=torch.channels_last)
    x = image.contiguous(memory_format=torch.channels_last)
    return lambda: last(x.to(device, kind)).float().cpu().numpy()


def compiled(together: Together, image: Tensor) -> Answer:
    """torch.compile, with its usual backend."""
    last = together.to(memory_format=torch.channels_last)
    work, x = torch.compile(last), image.contiguous(memory_format=torch.channels_last)
    return lambda: work(x).numpy()


def frozen(together: Together, image: Tensor) -> Answer:
    """Traced and frozen, as torch.jit optimises it for inference."""
    work = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(together.eval(), image)))
    return lambda: work(image).numpy()


def onnx(together: Together, image: Tensor) -> Answer:
    """Export to ONNX and use its runtime."""
    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(together, (image,), file, input_names=["x"], opset_version=17, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    x = image.numpy()
    return lambda: session.run(None, {"x": x})[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="pixels of the frame's side, at 0.104 Å each")
    parser.add_argument("--members", type=int, default=5, help="networks; the bundled ones again and again")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    ensemble = elit.load("graphene")
    ensemble = ensemble.subset([k % len(ensemble) for k in range(arguments.members)])
    truth = frames.frame("graphene", 1e6, size=(arguments.size, arguments.size))
    working = to_working_grid(as_image(truth.counts), truth.sampling, ensemble.sampling)
    h, w = (side - side % MULTIPLE for side in working.shape)
    image = torch.from_numpy(np.ascontiguousarray(working[:h, :w]))[None, None]
    with torch.inference_mode():
        runners: dict[str, Answer] = {}
        for prepare in (eager, channels_last, bfloat16, compiled, frozen, onnx, gpu, gpu_bfloat16):
            members = [fused(copy.deepcopy(member)) for member in ensemble.members]
            together = Together(members).eval().to(memory_format=torch.contiguous_format)
            try:
                runners[prepare.__name__] = run = prepare(together, image)
                for _ in range(2):  # warm
                    run()
            except Exception as error:  # a runtime that is not there is left out of the comparison
                runners.pop(prepare.__name__, None)
                print(f"{prepare.__name__}: not here ({str(error).splitlines()[0][:90]})")
        expected = runners["eager"]()
        times: dict[str, list[float]] = {name: [] for name in runners}
        cpu: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(arguments.repeats):
            for name, run in runners.items():
                wall, busy = time.perf_counter(), time.process_time()
                run()
                times[name].append(time.perf_counter() - wall)
                cpu[name].append(time.process_time() - busy)
        print(f"{arguments.size} x {arguments.size} pixels, {h} x {w} for the networks, {len(ensemble)} of them")
        print("| runtime | CPU ms | fastest wall ms | largest difference of a probability |\n|---|---|---|---|")
        for name, run in runners.items():
            difference = float(np.abs(run() - expected).max())
            ms = 1e3 * statistics.median(cpu[name]), 1e3 * min(times[name])
            print("| {} | {:.0f} | {:.1f} | {:.1e} |".format(name.replace("_", " "), *ms, difference))
    inference = Inference(ensemble.members, ensemble.device)
    networks, whole = (
        min(_wall_s(run) for _ in range(arguments.repeats + 2))
        for run in (lambda: inference.answer(working), lambda: ensemble.predict(truth.counts, truth.sampling))
    )
    print(f"used on {ensemble.device}: {1e3 * networks:.1f} ms for the networks, {1e3 * whole:.1f} ms for a prediction")


def _wall_s(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
