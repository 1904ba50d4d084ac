"""The cheapest script: answer with the request's own JSON."""

import json


def init():
    """Nothing to load."""


def run(raw_data):
    """Parse the body and give it back."""
    return json.loads(raw_data)
