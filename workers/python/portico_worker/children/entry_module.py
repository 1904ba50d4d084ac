"""The scoring script, in processes that it starts anew: they look for its functions by the name of its module.

Python's own ways of starting processes (multiprocessing with spawn or forkserver) hand on sys.path and the environment.
"""

import os
import sys

_runtime = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, _runtime)
from portico_worker import compat, settings  # noqa: E402 - found there only

sys.path.remove(_runtime)
compat.offer()

__file__ = os.path.join(settings.app_root(), os.environ["AZUREML_ENTRY_SCRIPT"])
with open(__file__, "rb") as _file:
    exec(compile(_file.read(), __file__, "exec"))
