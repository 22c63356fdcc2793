"""The microscope: values (``frame``), what an instrument offers (``instrument``), devices for plans (``devices``).

``swift`` and ``swift_instrument`` are the border to Nion Swift, and not imported here.
"""
