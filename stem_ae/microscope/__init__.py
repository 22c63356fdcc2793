"""The microscope: values (``frame``), what an instrument offers (``instrument``), devices for plans (``devices``).

``swift`` is the border to Nion Swift, and not imported here.
"""
