"""Tools around ONNX models that `portico model` runs: optimize and convert.

They run in an interpreter that has onnx and onnxruntime, and for conversions the converters and the model's own
packages. They know nothing of servers, reach no network, and tell what they did as one JSON document.
"""
