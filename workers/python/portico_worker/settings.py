"""Settings: environment variables, and below them the JSON file that holds the same names."""

from __future__ import annotations

import json
import logging
import os

from . import page
from .log import LOGGER

DEFAULT_APP_ROOT = "/var/azureml-app"
DEFAULT_SCORING_TIMEOUT_MS = 3_600_000

_log = logging.getLogger(LOGGER)

_ACTED_ON = {
    "AML_APP_ROOT", "AML_CORS_ORIGINS", "AZUREML_DEBUG_PORT", "AZUREML_ENTRY_SCRIPT", "AZUREML_LOG_LEVEL",
    "AZUREML_MODEL_DIR", "AZUREML_SOURCE_DIRECTORY", "HOSTNAME", "SCORING_TIMEOUT_MS",
    "SERVER_VERSION_LOG_RESPONSE_ENABLED", "SERVICE_NAME", "SERVICE_PATH_PREFIX", "SERVICE_VERSION", "WORKSPACE_NAME",
}  # fmt: skip
# Settings of the reference server that nothing here acts on: named in the log rather than ignored in silence.
_NOT_ACTED_ON = {
    "AML_APP_INSIGHTS_ENABLED", "AML_APP_INSIGHTS_KEY", "AML_MODEL_DC_STORAGE_ENABLED",
    "APP_INSIGHTS_LOG_RESPONSE_ENABLED",
}  # fmt: skip


class ScriptError(Exception):
    """The worker cannot serve. The message is one sentence for the person who deployed the script."""

    def __init__(self, kind: int, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def load() -> None:
    """Take what the configuration file says and the environment does not; raises ScriptError."""
    path = _file()
    if path:
        _take(path)
    for name in sorted(_NOT_ACTED_ON):
        if os.environ.get(name, "").lower() not in ("", "false") and name != "APP_INSIGHTS_LOG_RESPONSE_ENABLED":
            _log.warning("%s is set, but this server does not act on it", name)
    number("SCORING_TIMEOUT_MS", DEFAULT_SCORING_TIMEOUT_MS)  # not only after init() has loaded the model


def app_root() -> str:
    """The folder of the code."""
    return os.environ.get("AML_APP_ROOT") or DEFAULT_APP_ROOT


def mlflow_model() -> str:
    """The folder of the MLflow model that is served in place of a scoring script; empty: there is none."""
    return os.environ.get("PORTICO_MLFLOW_MODEL", "")


def batching() -> bool:
    """Whether the pool joins requests, which must be scored together then."""
    return flag("PORTICO_BATCHING", False)


def directories() -> list[str]:
    """Where configuration beside the script may lie."""
    root = app_root()
    return [root, os.path.dirname(os.path.join(root, os.environ.get("AZUREML_ENTRY_SCRIPT", "")))]


def flag(name: str, default: bool) -> bool:
    """A setting that is true or false."""
    return os.environ.get(name, str(default)).strip().lower() == "true"


def number(name: str, default: int) -> int:
    """A setting that is a positive number; raises ScriptError."""
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.strip().isdecimal() or int(text) < 1:
        raise ScriptError(page.SCRIPT, f"the setting {name} is {text!r}, which is not a positive number")
    return int(text)


def _file() -> str:
    named = os.environ.get("AZUREML_CONFIG_FILE", "")
    if named and not _holds_something(named):
        _log.warning("AZUREML_CONFIG_FILE is %s, which does not exist or is empty", named)
    candidates = [named, *(os.path.join(directory, "config.json") for directory in directories())]
    return next((path for path in candidates if path and _holds_something(path)), "")


def _holds_something(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0


def _take(path: str) -> None:
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except (OSError, ValueError) as error:
        raise ScriptError(page.SCRIPT, f"the configuration file {path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ScriptError(page.SCRIPT, f"the configuration file {path} does not hold a JSON object")
    extra = [name for name in values if name not in _ACTED_ON | _NOT_ACTED_ON]
    if extra:
        _log.warning("%s holds settings that this server does not know: %s", path, ", ".join(sorted(extra)))
    for name, value in values.items():
        if name in _ACTED_ON | _NOT_ACTED_ON and value is not None:
            os.environ.setdefault(name, str(value).lower() if isinstance(value, bool) else str(value))
    _log.info("settings of %s are in force where the environment has none", path)
