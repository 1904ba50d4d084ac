"""python -m portico_tools optimize|convert ... REPORT: do it, and leave a JSON document in the file REPORT."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
