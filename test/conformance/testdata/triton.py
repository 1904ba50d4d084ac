"""Asks a Triton deployment as scripts for Azure do: triton.py MODEL --base_url URL [--token KEY]."""

import argparse
import ssl

import numpy as np
import tritonclient.http as tritonhttpclient
from tritonclient.utils import InferenceServerException


def client_of(base_url):
    scheme, _, url = base_url.partition("://")
    if scheme == "http":
        return tritonhttpclient.InferenceServerClient(url=url)
    return tritonhttpclient.InferenceServerClient(url=url, ssl=True, ssl_context_factory=ssl.create_default_context)


def given(name, array, datatype, binary):
    tensor = tritonhttpclient.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def infer(client, headers, model, inputs, **more):
    # The client writes the length of its JSON into the headers that it is given, and leaves it there.
    return client.infer(model, inputs, headers=headers and dict(headers), **more)


def outputs(binary, *names):
    return [tritonhttpclient.InferRequestedOutput(name, binary_data=binary) for name in names]


def flowers(client, headers):
    assert client.is_model_ready("flowers", "3", headers)
    assert not client.is_model_ready("roses", headers=headers)
    metadata = client.get_model_metadata("flowers", headers=headers)
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}], metadata
    rows = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], dtype=np.float32)
    for binary_in in (True, False):
        for binary_out in (True, False):
            result = infer(
                client, headers, "flowers", [given("X", rows, "FP32", binary_in)], model_version="3", request_id="q-1",
                outputs=outputs(binary_out, "label", "probabilities"),
            )  # fmt: skip
            assert result.as_numpy("label").tolist() == [0, 2], result.get_response()
            assert np.allclose(result.as_numpy("probabilities").sum(axis=1), 1), result.get_response()
            assert result.get_response()["id"] == "q-1", result.get_response()
    everything = infer(client, headers, "flowers", [given("X", rows, "FP32", True)])
    assert everything.as_numpy("label").tolist() == [0, 2], everything.get_response()
    waiting = [client.async_infer("flowers", [given("X", rows[:1], "FP32", True)], headers=headers) for _ in range(8)]
    assert [one.get_result().as_numpy("label").tolist() for one in waiting] == [[0]] * 8
    try:
        infer(client, headers, "flowers", [given("X", rows.astype(np.float64), "FP64", True)])
    except InferenceServerException as error:
        assert "expected datatype FP32, got FP64" in str(error), error
    else:
        raise AssertionError("a wrong type was taken")


def columns(client, headers):
    """Texts are lengths and bytes on the wire."""
    sizes = np.array([[1.0], [2.0]], dtype=np.float32)
    colors = np.array([["red"], ["green"]], dtype=np.object_)
    for binary in (True, False):
        inputs = [given("size", sizes, "FP32", binary), given("color", colors, "BYTES", binary)]
        result = infer(client, headers, "columns", inputs)
        assert result.as_numpy("label").shape == (2,), result.get_response()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=["flowers", "columns"])
    parser.add_argument("--base_url", required=True)
    parser.add_argument("--token")
    args = parser.parse_args()
    headers = {"Authorization": f"Bearer {args.token}"} if args.token else None
    client = client_of(args.base_url)
    assert client.is_server_live(headers)
    assert client.is_server_ready(headers)
    assert client.get_server_metadata(headers)["extensions"] == ["binary_tensor_data"]
    {"flowers": flowers, "columns": columns}[args.model](client, headers)
    client.close()


if __name__ == "__main__":
    main()
