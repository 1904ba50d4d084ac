"""The scoring worker: runs one scoring script, one request at a time, on the main thread.

Owns the worker's end of the protocol in docs/architecture.md: HTTP/1.1 on the Unix socket that it is given as file
descriptor 3, the status page behind descriptor 4, cancellation by SIGUSR1, and the contract that scoring scripts
know (init, run, their inputs, outputs, errors and log lines). Standard library only, Python 3.9 or newer.

It never opens a port, never starts a process, and knows nothing of endpoints, deployments or other workers.
"""

VERSION = "1.0"
