"""Nion Swift, started by ``stem-ae swift`` and ``stem-ae demo``: an own project folder and, if wanted, a scenario.

Swift finds this package among its plug-ins; it adds nothing to a Swift that was started in the ordinary way.
"""
