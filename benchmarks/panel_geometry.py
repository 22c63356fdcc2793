"""The panels in the real Nion Swift on screens of three sizes, light and dark: pictures, sizes, and layout faults.

Run it as ``python benchmarks/panel_geometry.py [--output FOLDER] [--size 1280x800] [--theme dark]``.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
SIZES = ("1280x800", "1760x990", "2560x1440")
THEMES = ("light", "dark")


def main() -> None:
    """Start Swift on each screen and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir(), "panel_geometry"))
    parser.add_argument("--size", action="append", choices=SIZES, help="only these; may be repeated")
    parser.add_argument("--theme", action="append", choices=THEMES)
    parser.add_argument("--arrangement", action="append", help="such as all, tabbed, Atoms")
    arguments = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "scenarios")]
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
    failed = False
    print("screen     theme  arrangement         texts  window     least and most height of a panel   complaints")
    for size in arguments.size or SIZES:
        for theme in arguments.theme or THEMES:
            for row in measured(size, theme, arguments.output / f"{size}_{theme}", arguments.arrangement):
                heights = [height for _, height in row["panels"].values()]
                window = "x".join(map(str, row["window"]))
                print(
                    f"{size:10} {theme:6} {row['arrangement']:19} {row['texts']:6} {window:10} "
                    f"{min(heights):5} {max(heights):5}   {len(row['complaints'])}"
                )
                for text in row["complaints"]:
                    print(f"    {text}")
                failed |= bool(row["complaints"])
    print(f"pictures: {arguments.output}")
    sys.exit(failed)


def measured(size: str, theme: str, folder: pathlib.Path, arrangements: list[str] | None) -> list[dict[str, Any]]:
    """Return the rows for one screen; pictures are left in the folder."""
    import dark_theme

    from stem_ae.launch import display, process

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    width, height = map(int, size.split("x"))
    with display.virtual_display((width, height)) as screen:
        before = dict(os.environ)
        os.environ |= {"DISPLAY": screen, "QT_QPA_PLATFORM": "xcb", "LIBGL_ALWAYS_SOFTWARE": "1"}
        if theme == "dark":
            os.environ |= dark_theme.environment(folder / "theme")
        try:
            rows: list[dict[str, Any]] = process.run_scenario(
                "geometry_scenarios:measure", folder / "swift", virtual=False, timeout_s=300,
                arrangements=arrangements or list(_arrangements()), pictures=str(folder),
            )  # fmt: skip
        finally:
            os.environ.clear()
            os.environ |= before
    return rows


def _arrangements() -> list[str]:
    return ["all", "Atoms and Explorer", "Atoms", "Explorer", "Eject", "Simulate", "Jobs", "tabbed"]


if __name__ == "__main__":
    main()
