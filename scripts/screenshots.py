"""Take the pictures of the panels in ``docs/images`` from the real Nion Swift on the simulated microscope.

    python scripts/screenshots.py [--only atoms explorer ...] [--output docs/images]

Each takes half a minute to three minutes; Xvfb is needed. A picture has as many colours as fit into 300 kB. The same
scenarios are tested in ``tests/test_real_app.py``, ``tests/test_explorer_panel.py``, ``tests/test_simulate_panels.py``
and ``tests/test_ejection_real_app.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import Callable

from PIL import Image

from stem_ae.launch import demo, process

HOME = pathlib.Path(__file__).parents[1]
MOST_BYTES = 300_000
"""Of a picture, so that a clone stays small."""


def scenario(name: str, scratch: pathlib.Path, **options: object) -> None:
    """Run a scenario of the tests."""
    process.run_scenario(name, scratch / "swift", virtual=True, timeout_s=600, **options)


def live(scratch: pathlib.Path, output: pathlib.Path) -> None:
    """Show rings on a live scan, as the demonstration does."""
    demo.run(scratch, seconds=3.0)
    shutil.copy(scratch / "live_overlay.png", output / "live_overlay.png")


def atoms(scratch: pathlib.Path, output: pathlib.Path) -> None:
    """Show the Atoms panel with defects and checked networks."""
    scenario("truth_scenarios:atoms_picture", scratch, picture=str(output / "atoms_panel.png"))


def explorer(scratch: pathlib.Path, output: pathlib.Path) -> None:
    """Show the Explorer panel near the end of an exploration."""
    runs, picture = str(scratch / "runs"), str(output / "explorer_panel.png")
    scenario("explorer_scenarios:explore", scratch, output=runs, picture=picture)


def ejection(scratch: pathlib.Path, output: pathlib.Path) -> None:
    """Show the Eject panel after a run."""
    scenario("ejection_scenarios:eject", scratch, data=str(scratch / "runs"), picture=str(scratch / "half.png"))
    shutil.copy(scratch / "after.png", output / "ejection_panel.png")


def simulate(scratch: pathlib.Path, output: pathlib.Path) -> None:
    """Show the Simulate panel with a preview, and the Jobs panel with a result on its image."""
    os.environ["XDG_DATA_HOME"] = str(scratch)  # the queue is there
    try:
        scenario("simulate_scenarios:relax_a_patch", scratch, pictures=str(output))
    finally:
        for path in scratch.rglob("workers/*/pid"):  # workers outlive everything by design
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)


PICTURES: dict[str, Callable[[pathlib.Path, pathlib.Path], None]] = {
    "live": live, "atoms": atoms, "explorer": explorer, "ejection": ejection, "simulate": simulate,
}  # fmt: skip


def shrink(picture: pathlib.Path, to: pathlib.Path) -> int:
    """Write a picture with as many colours as fit into :data:`MOST_BYTES`, and return its size in bytes."""
    image = Image.open(picture).convert("RGB")
    # By cover, not by count: the few green letters of a headline stay green beside a million pixels of noise.
    for colors in (256, 128, 64, 32):
        image.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(to, optimize=True)
        if to.stat().st_size < MOST_BYTES:
            break
    return to.stat().st_size


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES), help="which (default: all)")
    parser.add_argument("--output", type=pathlib.Path, default=HOME / "docs" / "images", help="folder to write to")
    arguments = parser.parse_args()
    output = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    places = [str(HOME / "tests" / "scenarios"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as scratch:
            made = pathlib.Path(scratch, "made")
            made.mkdir()
            PICTURES[name](pathlib.Path(scratch), made)
            for picture in made.glob("*.png"):
                print(f"{picture.name}: {shrink(picture, output / picture.name)} bytes", flush=True)


if __name__ == "__main__":
    main()
