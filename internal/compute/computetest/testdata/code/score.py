"""A scoring script that does what the request says."""

import json
import os
import time
import uuid

BOOT = uuid.uuid4().hex


def init():
    print("boot " + BOOT, flush=True)
    time.sleep(float(os.environ.get("INIT_SECONDS", "0")))


def run(raw_data):
    order = json.loads(raw_data)
    if "say" in order:
        print(order["say"], flush=True)
    if "sleep" in order:
        time.sleep(order["sleep"])
    if "exit" in order:
        os._exit(order["exit"])
    answer = {"boot": BOOT, "echo": order.get("echo")}
    if "env" in order:
        answer["env"] = {name: os.environ.get(name) for name in order["env"]}
    if "write" in order:
        with open(os.path.join(os.environ["TMPDIR"], "note"), "w", encoding="utf-8") as note:
            note.write(order["write"])
        answer["home"] = os.access(os.environ["HOME"], os.W_OK)
    if "model" in order:
        folder = os.environ.get("AZUREML_MODEL_DIR")
        answer["model"] = sorted(os.listdir(folder)) if folder else None
        script = os.path.join(os.environ["AML_APP_ROOT"], os.environ["AZUREML_ENTRY_SCRIPT"])
        answer["script"] = os.path.isfile(script)
    return answer
