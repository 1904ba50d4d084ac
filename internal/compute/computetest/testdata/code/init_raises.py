"""A scoring script whose init raises."""


def init():
    print("about to look for the column", flush=True)
    raise ValueError("no such column")


def run(raw_data):
    return raw_data
