"""The least that a fork can cost: floor.py RUNTIME MODEL BODY TIMES.

A process that has imported what a fork server imports forks itself with os.fork(), and the child reads the model and
predicts: no user id, cgroup, file system, journal, script or request. It prints the milliseconds of each.
"""

import gc
import importlib
import json
import os
import sys
import time

import joblib
import numpy

runtime, model, body, times = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
sys.path.insert(0, os.path.dirname(runtime))
forkserver = importlib.import_module("portico_worker.forkserver")
for name in forkserver.with_companions(["joblib"]):
    importlib.import_module(name)
gc.disable()
gc.freeze()
for _ in range(times):
    time.sleep(0.3)  # as between the starts that it is compared with
    answer, child = os.pipe()
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        data = numpy.array(json.loads(body)["data"])
        os.write(child, json.dumps(joblib.load(model).predict(data).tolist()).encode())
        os._exit(0)
    os.close(child)
    os.read(answer, 4096)
    print((time.perf_counter() - began) * 1e3, flush=True)
    os.close(answer)
    os.waitpid(pid, 0)
