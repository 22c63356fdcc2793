"""The rule that keeps the library usable without Nion Swift, read from the syntax tree of every module."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SWIFT_PACKAGES = ("nion.swift", "nion.instrumentation", "nion.usim_device", "nion.device_kit", "nion.ui")
BORDER = ROOT / "stem_ae" / "microscope" / "swift.py"


def imported_names(source: str) -> set[str]:
    """Return every module name that the source imports, anywhere in it (``from a import b`` gives a and a.b)."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def swift_imports(source: str) -> set[str]:
    return {
        name
        for name in imported_names(source)
        if any(name == package or name.startswith(package + ".") for package in SWIFT_PACKAGES)
    }


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import nion.swift.model.DataItem", True),
        ("def f():\n    from nion import instrumentation", True),
        ("from nion.device_kit import ScanDevice", True),
        ("from nion.data import DataAndMetadata", False),
        ("from stem_ae.microscope import swift", False),
    ],
)
def test_the_rule_sees_an_import_wherever_it_stands(source, found):
    assert bool(swift_imports(source)) is found


def test_only_the_border_imports_swift():
    modules = sorted((ROOT / "stem_ae").rglob("*.py"))
    assert len(modules) > 10
    offenders = {
        str(path.relative_to(ROOT)): names
        for path in modules
        if path != BORDER and (names := swift_imports(path.read_text(encoding="utf-8")))
    }
    assert not offenders


def test_the_library_does_not_import_the_plug_ins():
    offenders = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "stem_ae").rglob("*.py"))
        if any(name.split(".")[0] == "nionswift_plugin" for name in imported_names(path.read_text(encoding="utf-8")))
    ]
    assert not offenders


@pytest.mark.parametrize("module", ["stem_ae", "stem_ae.cli", "stem_ae.launch.command", "stem_ae.imageio"])
def test_light_modules_stay_light(module):
    """The command line and Swift's start wait for these: no torch, no Swift."""
    code = f"import sys, {module}; print([m for m in ('torch', 'nion.swift', 'matplotlib') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
