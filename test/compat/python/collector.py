"""Data collection as the SDK has it: in Python, from a YAML file, and read back through the datastore.

    python collector.py ACCOUNT_URL

ACCOUNT_URL is how azure-storage-blob calls the datastore's account, with {account} in the place of its name.
"""

import json
import logging
import sys
import time
from pathlib import Path

from azure.ai.ml import MLClient, load_online_deployment
from azure.ai.ml.entities import (
    CodeConfiguration,
    DataAsset,
    DataCollector,
    DeploymentCollection,
    Environment,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
)
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential
from azure.storage.blob import ContainerClient

SCRIPT = "def init():\n    pass\n\ndef run(raw_data):\n    return {'got': raw_data}\n"
YAML = """name: green
endpoint_name: collected
code_configuration: {code: src, scoring_script: score.py}
environment: azureml:plain@latest
instance_type: Standard_DS3_v2
instance_count: 1
data_collector:
  sampling_rate: 1.0
  rolling_rate: day
  collections:
    request:
      enabled: 'True'
    response:
      enabled: 'False'
"""
WAIT_S = 60


def lines(container, prefix, count):
    """What a collection holds, once that are so many lines."""
    for _ in range(WAIT_S * 10):
        blobs = sorted(blob.name for blob in container.list_blobs(name_starts_with=prefix))
        text = b"".join(container.download_blob(name).readall() for name in blobs)
        if text.count(b"\n") >= count:
            return [json.loads(line) for line in text.splitlines()]
        time.sleep(0.1)
    raise AssertionError(f"{prefix}: {text}")


def main(account_url):
    logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)  # says that these classes are experimental
    client = MLClient(DefaultAzureCredential(), "00000000-0000-0000-0000-000000000001", "portico", "default")
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="collected")).result()
    Path("src").mkdir()
    Path("src/score.py").write_text(SCRIPT)
    Path("conda.yaml").write_text("name: plain\ndependencies:\n  - python\n")
    environment = client.environments.create_or_update(
        Environment(name="plain", image="mcr.microsoft.com/azureml/minimal:latest", conda_file="conda.yaml")
    )
    blue = ManagedOnlineDeployment(
        name="blue",
        endpoint_name="collected",
        code_configuration=CodeConfiguration(code="src", scoring_script="score.py"),
        environment=environment,
        instance_type="Standard_DS3_v2",
        instance_count=1,
        data_collector=DataCollector(
            collections={
                "request": DeploymentCollection(enabled="True"),
                "response": DeploymentCollection(
                    enabled="True",
                    data=DataAsset(
                        name="answers", version="2", path="azureml://datastores/workspaceblobstore/paths/kept/answers"
                    ),
                ),
            },
            rolling_rate="minute",
            sampling_rate=1.0,
        ),
    )
    client.online_deployments.begin_create_or_update(blue).result()
    Path("request.json").write_text('{"a": 1}')

    def invoke(deployment):
        return client.online_endpoints.invoke("collected", request_file="request.json", deployment_name=deployment)

    invoke("blue")
    store = client.datastores.get_default()
    url = account_url.format(account=store.account_name)
    container = ContainerClient(url, store.container_name, credential=DefaultAzureCredential())
    request = lines(container, "modelDataCollector/collected/blue/request/", 1)[0]
    assert (request["data"], request["type"], request["path"]) == ({"a": 1}, "azureml.inference.request", "/score"), (
        request
    )
    answer = lines(container, "kept/answers/", 1)[0]
    assert answer["data"] == {"got": '{"a": 1}'} and answer["xrequestid"] == request["xrequestid"], answer
    for name, version in (("collected-blue-request", "1"), ("answers", "2")):
        assert client.data.get(name, version).type == "uri_folder"

    got = client.online_deployments.get("blue", "collected").data_collector
    assert got.rolling_rate.lower() == "minute" and got.sampling_rate == 1.0, got
    assert got.collections["response"].enabled == "true", got.collections["response"]
    assert got.collections["response"].data.endswith("/data/answers/versions/2"), got.collections["response"].data

    Path("green.yml").write_text(YAML)
    client.online_deployments.begin_create_or_update(load_online_deployment("green.yml")).result()
    invoke("green")
    assert len(lines(container, "modelDataCollector/collected/green/request/", 1)) == 1
    assert not list(container.list_blobs(name_starts_with="modelDataCollector/collected/green/response/"))

    blue.data_collector = DataCollector(collections={"..": DeploymentCollection(enabled="True")})
    try:
        client.online_deployments.begin_create_or_update(blue).result()
    except (HttpResponseError, Exception) as error:
        assert "not valid" in str(error), error
    else:
        raise AssertionError("a collection named .. was accepted")


if __name__ == "__main__":
    main(*sys.argv[1:])
