"""Build a release: wheel, sources, and requirements with the hashes of every package.

The requirements hold for every system and Python that we support, since each package has the hashes of all its files.
It takes git, the network and a minute; packages are described by the registry, not downloaded.

PyTorch and what belongs to its CUDA build stand in a file of their own: the user decides which build a machine gets,
and whether CUDA is worth gigabytes.

    python scripts/release.py dist
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import venv

HOME = pathlib.Path(__file__).parents[1]
TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")


def build(sources: pathlib.Path, tools: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Build wheel and sources into a folder, and return the wheel."""
    run(tools / "python", "-m", "build", "--outdir", folder, sources)
    return next(folder.glob("*.whl"))


def resolve(sources: pathlib.Path, tools: pathlib.Path) -> list[str]:
    """Return the pinned packages with their hashes, one text of several lines for each."""
    found = run(
        tools / "uv", "pip", "compile", sources / "setup.cfg", "--extra", "swift", "--universal",
        "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url",
        "--quiet",
    )  # fmt: skip
    return re.findall(r"^\S.*(?:\n[ \t].*)*", found, re.MULTILINE)


def sha256(path: pathlib.Path) -> str:
    """Return a file's digest."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(*command: object) -> str:
    """Run a program and return what it prints."""
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Build a release."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="new or empty")
    folder = parser.parse_args().folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty.")
    with tempfile.TemporaryDirectory() as scratch:
        sources, tools = pathlib.Path(scratch, "sources"), pathlib.Path(scratch, "tools")
        # What is committed, nothing that happens to lie about.
        committed = subprocess.run(["git", "-C", HOME, "archive", "HEAD"], check=True, stdout=subprocess.PIPE).stdout
        with tarfile.open(fileobj=io.BytesIO(committed)) as archive:
            archive.extractall(sources, filter="data")
        venv.create(tools, with_pip=True, symlinks=True)
        tools = tools / ("Scripts" if sys.platform == "win32" else "bin")
        run(tools / "python", "-m", "pip", "install", "--quiet", "build", "uv")
        wheel, packages = build(sources, tools, folder), resolve(sources, tools)
    torch = [package for package in packages if TORCH.match(package)]
    rest = [package for package in packages if not TORCH.match(package)]
    this = f"./{wheel.name} \\\n    --hash=sha256:{sha256(wheel)}"
    (folder / "requirements-torch.txt").write_text("\n".join(torch) + "\n")
    (folder / "requirements.txt").write_text("\n".join([this, *rest]) + "\n")
    sums = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    print(f"{folder}: {', '.join(sums)}; {len(rest)} packages, and {len(torch)} of PyTorch")


if __name__ == "__main__":
    main()
