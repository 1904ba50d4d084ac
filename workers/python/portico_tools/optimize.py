"""Optimise an ONNX model: the graph by ONNX Runtime, its weights to 8 bits if asked, and tell what that changed."""

from __future__ import annotations

import os
import tempfile
import time
from statistics import median
from typing import Any

import onnx
import onnxruntime

from . import samples
from .compare import Difference
from .main import Refused

LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
WARM_UP = 3  # rounds that are not counted
SPENT = 20.0  # seconds after which no further round begins
MAX_FILE = 2 << 30  # bytes of a model in one file; protobuf ends there


def run(args: Any) -> dict[str, Any]:
    """Optimise args.source into args.target."""
    if args.level not in LEVELS:
        raise Refused(f"level {args.level} is not one of {', '.join(LEVELS)}")
    if os.path.getsize(args.source) > MAX_FILE:
        raise Refused("the model is larger than 2 GiB, which the tools do not take")
    try:
        onnx.checker.check_model(args.source)
        before = _session(args.source, "none")
    except Exception as error:
        raise Refused(f"{os.path.basename(args.source)} is no ONNX model that ONNX Runtime loads: {error}") from None
    feed, made_up = samples.feeds(before, args.samples)
    with tempfile.TemporaryDirectory() as scratch:
        step = os.path.join(scratch, "graph.onnx")
        if args.int8:
            # Operators that the higher levels fuse cannot be quantised any more, so these come last.
            basic, quantised = os.path.join(scratch, "basic.onnx"), os.path.join(scratch, "int8.onnx")
            _optimise_graph(args.source, basic, "none" if args.level == "none" else "basic")
            _quantise(basic, quantised)
            _optimise_graph(quantised, step, args.level)
        else:
            _optimise_graph(args.source, step, args.level)
        after = _session(step, "none")
        apart = Difference()
        for out, a, b in zip(before.get_outputs(), before.run(None, feed), after.run(None, feed)):
            apart.add(out.name, a, b)
        # Eight bits change what a model says: that is reported, and refused only where a bound is given.
        tolerance = args.tolerance if args.tolerance >= 0 or args.int8 else 1e-4
        fault = apart.fault(tolerance, labels=not args.int8)
        if fault:
            raise Refused(f"{fault}; nothing was written")
        # Served models are optimised at load anyway: that is what the speed is measured with, before and after.
        served_before, served_after = _session(args.source, "all"), _session(step, "all")
        slow, fast, rounds = _race(served_before, served_after, feed, args.rounds)
        report = {
            "source": args.source,
            "target": args.target,
            "level": args.level,
            "int8": args.int8,
            "bytes_before": os.path.getsize(args.source),
            "bytes_after": os.path.getsize(step),
            "nodes_before": _nodes(args.source),
            "nodes_after": _nodes(step),
            "run_ms_before": slow,
            "run_ms_after": fast,
            "rounds": rounds,
            "samples": samples.rows(feed),
            "samples_made_up": made_up,
            **apart.report(),
            "tolerance": tolerance if tolerance >= 0 else None,
            "onnxruntime": onnxruntime.__version__,
        }
        _move(step, args.target)
    return report


def _session(path: str, level: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS.get(level, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _optimise_graph(source: str, target: str, level: str) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = target
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _quantise(source: str, target: str) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nothing = (
        "the model has no weights that 8 bits could hold: only those of matrix products and convolutions can be; "
        "leave --int8 out"
    )
    model = onnx.load(source)
    # ONNX Runtime writes the standard operators under both of their names, which its own quantisation refuses.
    sets = {"" if s.domain == "ai.onnx" else s.domain: s.version for s in model.opset_import}
    if "" not in sets:
        raise Refused(nothing)
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in sets.items())
    quantize_dynamic(model, target, weight_type=QuantType.QInt8)
    small = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    if not any(w.data_type in small for w in onnx.load(target).graph.initializer):
        raise Refused(nothing)


def _race(one: Any, other: Any, feed: dict[str, Any], rounds: int) -> tuple[float, float, int]:
    """The medians in milliseconds of runs by turns, so that both see the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    end = time.monotonic() + SPENT
    done = 0
    for number in range(rounds + WARM_UP):
        if number > WARM_UP and time.monotonic() > end:
            break
        for session, into in zip((one, other), times):
            start = time.perf_counter()
            session.run(None, feed)
            if number >= WARM_UP:
                into.append((time.perf_counter() - start) * 1000)
        done += number >= WARM_UP
    return median(times[0]), median(times[1]), done


def _nodes(path: str) -> int:
    return len(onnx.load(path, load_external_data=False).graph.node)


def _move(source: str, target: str) -> None:
    """Put the result in place in one step, also across file systems."""
    part = target + ".part"
    with open(source, "rb") as read, open(part, "wb") as write:
        while chunk := read.read(1 << 20):
            write.write(chunk)
        write.flush()
        os.fsync(write.fileno())
    os.replace(part, target)
