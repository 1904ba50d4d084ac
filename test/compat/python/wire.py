"""One call of each kind, for the record of what goes over the wire. Everything in it is the same at every run."""

import json
from datetime import timedelta
from pathlib import Path

from azure.ai.ml import MLClient
from azure.ai.ml.entities import (
    CodeConfiguration,
    Environment,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.mgmt.costmanagement import CostManagementClient
from azure.monitor.query import MetricsQueryClient

SCRIPT = """import json, os

def init():
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.txt")) as f:
        globals()["model"] = f.read()

def run(raw_data):
    return {"model": model, "sum": sum(json.loads(raw_data)["features"])}
"""


def main():
    Path("src").mkdir()
    Path("src/score.py").write_text(SCRIPT)
    Path("model.txt").write_text("the model")
    Path("conda.yaml").write_text("name: plain\ndependencies:\n  - python\n")
    Path("request.json").write_text('{"features": [1, 2, 3]}')
    credential = DefaultAzureCredential()
    client = MLClient(credential, "00000000-0000-0000-0000-000000000001", "portico", "default")

    endpoint = ManagedOnlineEndpoint(name="wire", description="for the record", auth_mode="key", tags={"a": "b"})
    endpoint = client.online_endpoints.begin_create_or_update(endpoint).result()
    deployment = ManagedOnlineDeployment(
        name="blue",
        endpoint_name="wire",
        model=Model(path="./model.txt"),
        code_configuration=CodeConfiguration(code="./src", scoring_script="score.py"),
        environment=Environment(image="mcr.microsoft.com/azureml/minimal:latest", conda_file="./conda.yaml"),
        instance_type="Standard_DS3_v2",
        instance_count=1,
        request_settings=OnlineRequestSettings(request_timeout_ms=90000, max_concurrent_requests_per_instance=3),
        liveness_probe=ProbeSettings(initial_delay=10, period=10, timeout=2, failure_threshold=3),
        environment_variables={"A": "1"},
    )
    client.online_deployments.begin_create_or_update(deployment).result()
    endpoint.traffic = {"blue": 100}
    endpoint = client.online_endpoints.begin_create_or_update(endpoint).result()
    client.online_endpoints.get("wire")
    client.online_deployments.get("blue", "wire")
    for name in (None, "blue"):
        answer = client.online_endpoints.invoke("wire", request_file="request.json", deployment_name=name)
        assert json.loads(answer) == {"model": "the model", "sum": 6}, answer
    client.online_deployments.get_logs("blue", "wire", lines=10)
    client.online_deployments.get_logs("blue", "wire", lines=10, container_type="storage-initializer")
    client.online_endpoints.begin_regenerate_keys("wire", key_type="secondary").result()
    assert [e.name for e in client.online_endpoints.list()] == ["wire"]
    assert [d.name for d in client.online_deployments.list("wire")] == ["blue"]
    assert client.workspaces.get("default").name == "default"
    assert client.datastores.get_default().name == "workspaceblobstore"
    MetricsQueryClient(credential).query_resource(
        endpoint.id, metric_names=["RequestsPerMinute"], timespan=timedelta(hours=1), filter="deployment eq '*'"
    )
    CostManagementClient(credential).query.usage(
        "/subscriptions/00000000-0000-0000-0000-000000000001",
        {
            "type": "Usage",
            "timeframe": "MonthToDate",
            "dataset": {"granularity": "Daily", "filter": {"tags": {"name": "endpoint", "value": "wire"}}},
        },
    )
    for call in (
        lambda: client.online_endpoints.get("nobody"),
        lambda: client.online_deployments.begin_delete("blue", "wire"),
    ):
        try:
            call()
        except (ResourceNotFoundError, HttpResponseError) as e:
            assert e.error.code, e
        else:
            raise AssertionError("this call must fail")
    endpoint.traffic = {}
    client.online_endpoints.begin_create_or_update(endpoint).result()
    client.online_deployments.begin_delete("blue", "wire").result()
    client.online_endpoints.begin_delete("wire").result()


if __name__ == "__main__":
    main()
