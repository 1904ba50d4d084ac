"""The command line of the tools. `portico model` is the only caller that is meant."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback
from typing import Any

REFUSED = 2  # the exit status when the input is at fault: the report has `error`


class Refused(Exception):
    """What the user must change, in one sentence or two."""


def main(argv: list[str]) -> int:
    """Run one tool. The report is written whole or not at all."""
    parser = argparse.ArgumentParser(prog="portico_tools")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("optimize", "convert"):
        command = commands.add_parser(name)
        command.add_argument("source")
        command.add_argument("target")
        command.add_argument("report")
        command.add_argument("--samples", default="")
        command.add_argument("--tolerance", type=float, default=-1.0)
        if name == "optimize":
            command.add_argument("--level", default="extended")
            command.add_argument("--int8", action="store_true")
            command.add_argument("--rounds", type=int, default=50)
        else:
            command.add_argument("--opset", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        tool = importlib.import_module("." + args.command, __package__)
        report: dict[str, Any] = tool.run(args)
    except Refused as refused:
        write(args.report, {"error": str(refused)})
        return REFUSED
    except ModuleNotFoundError as missing:
        write(args.report, {"error": missing_package(missing)})
        return REFUSED
    except Exception as error:
        traceback.print_exc()
        write(args.report, {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"})
        return REFUSED
    write(args.report, report)
    return 0


def missing_package(missing: ModuleNotFoundError) -> str:
    """Say what to install for an import that failed."""
    name = (missing.name or "").split(".")[0]
    return (
        f"the Python package {name} is not in {sys.executable}; name it with --requirement {name}==VERSION, "
        "or use --python with an interpreter that has it"
    )


def write(path: str, report: dict[str, Any]) -> None:
    """Write a document in one step."""
    with open(path + ".part", "w", encoding="utf-8") as out:
        json.dump(report, out, allow_nan=False)
    os.replace(path + ".part", path)
