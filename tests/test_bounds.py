"""The lower bounds of setup.cfg are what CI installs at the oldest end, so the promised versions are tested."""

import configparser
import pathlib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = pathlib.Path(__file__).parents[1]
OLDEST = {"platform_system": "Linux", "platform_machine": "x86_64", "python_version": "3.11"}

pytestmark = pytest.mark.skipif(not (ROOT / "setup.cfg").exists(), reason="stem_ae is installed, without setup.cfg")


def lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def requirements() -> list[Requirement]:
    """Return what CI installs at the oldest end: everything but what only benchmarks use."""
    config = configparser.ConfigParser(comment_prefixes="")
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = config["options.extras_require"]
    texts = [config["options"]["install_requires"], *(extras[name] for name in extras if name != "benchmarks")]
    found = [Requirement(line) for text in texts for line in lines(text)]
    return [one for one in found if one.marker is None or one.marker.evaluate(OLDEST)]


def pinned() -> dict[str, Version]:
    """Return the versions of constraints.txt."""
    pins = (line.split("==") for line in lines((ROOT / "constraints.txt").read_text(encoding="utf-8")))
    return {canonicalize_name(name): Version(version) for name, version in pins}


def drifted(required: list[Requirement], pins: dict[str, Version]) -> list[str]:
    """Return the names of those whose lower bound is not what is pinned."""
    bounds = {
        canonicalize_name(one.name): [Version(part.version) for part in one.specifier if part.operator == ">="]
        for one in required
    }
    return [name for name, bound in bounds.items() if bound != [pins.get(name)]]


def test_every_dependency_has_a_lower_bound_and_the_oldest_end_installs_just_that():
    required = requirements()
    assert {"numpy", "torch", "nionswift", "pytest", "tblite"} <= {one.name for one in required}
    assert drifted(required, pinned()) == []


@pytest.mark.parametrize("text", ["numpy", "numpy>=2.0", "numpy>=2.1", "numpy==2.0.2", "nonsense>=1"])
def test_a_bound_that_was_moved_alone_is_noticed(text):
    assert len(drifted([Requirement(text)], {"numpy": Version("2.0.2")})) == 1
    assert drifted([Requirement("NumPy >= 2.0.2, < 3")], {"numpy": Version("2.0.2")}) == []
