"""A dark theme for a window without a desktop: Qt takes its colours from KDE's settings."""

import pathlib

SETTINGS = """
[General]
ColorScheme=BreezeDark

[Colors:Button]
BackgroundNormal=49,54,59
ForegroundNormal=239,240,241

[Colors:Selection]
BackgroundNormal=61,174,233
ForegroundNormal=239,240,241

[Colors:Tooltip]
BackgroundNormal=49,54,59
ForegroundNormal=239,240,241

[Colors:View]
BackgroundNormal=35,38,41
BackgroundAlternate=49,54,59
ForegroundNormal=239,240,241

[Colors:Window]
BackgroundNormal=49,54,59
BackgroundAlternate=77,77,77
ForegroundNormal=239,240,241
"""


def environment(folder: pathlib.Path) -> dict[str, str]:
    """Return the environment variables of a program that is to be dark; its settings are written into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kdeglobals").write_text(SETTINGS, encoding="utf-8")
    return {
        "XDG_CURRENT_DESKTOP": "KDE", "KDE_SESSION_VERSION": "5", "KDE_FULL_SESSION": "true",
        "XDG_CONFIG_HOME": str(folder),
    }  # fmt: skip
