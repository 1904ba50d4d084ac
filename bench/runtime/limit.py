"""What one Python can do at most: a plain loop of run() and the conversion of its answer, without any server.

Usage: limit.py SCRIPT SECONDS, the request's body on standard input. Prints calls per second.
"""

import importlib.util
import json
import sys
import time

path, seconds = sys.argv[1], float(sys.argv[2])
sys.path.insert(0, path.rpartition("/")[0])
spec = importlib.util.spec_from_file_location("script", path)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
script.init()
body = sys.stdin.buffer.read()
for _ in range(1000):
    json.dumps(script.run(body.decode())).encode()
calls, began = 0, time.perf_counter()
end = began + seconds
while (now := time.perf_counter()) < end:
    for _ in range(100):
        json.dumps(script.run(body.decode())).encode()
    calls += 100
print(calls / (now - began))
