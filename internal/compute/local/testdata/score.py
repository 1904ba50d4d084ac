"""A scoring script for the tests of the local engine."""

import hashlib
import json
import os
import time


def init():
    print("boot", flush=True)
    time.sleep(float(os.environ.get("INIT_SECONDS", "0")))


def run(raw_data):
    order = json.loads(raw_data)
    if "say" in order:
        print(order["say"], flush=True)
    if "sleep" in order:
        time.sleep(order["sleep"])
    if order.get("hang"):
        # One call into C, for minutes: no signal handler of Python runs meanwhile.
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1_000_000_000)
    if "list" in order:
        try:
            return sorted(os.listdir(order["list"]))
        except OSError as error:
            return type(error).__name__
    return os.getpid()
