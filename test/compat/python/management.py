"""The management clients that have the public cloud built in, with their default options: azure-mgmt-monitor,
azure-mgmt-costmanagement and azure-mgmt-machinelearningservices, whose versions before 2.0 know workspaces only."""

from azure.ai.ml import MLClient
from azure.ai.ml.entities import ManagedOnlineEndpoint
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.mgmt.costmanagement import CostManagementClient
from azure.mgmt.machinelearningservices import MachineLearningServicesMgmtClient
from azure.mgmt.monitor import MonitorManagementClient

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
GROUP, WORKSPACE, NAME = "portico", "default", "by-management"


def code(error):
    return error.error.code if error.error else None


def workspaces(client):
    assert client.workspaces.get(GROUP, WORKSPACE).name == WORKSPACE
    assert [w.name for w in client.workspaces.list_by_resource_group(GROUP)] == [WORKSPACE]
    assert [w.name for w in client.workspaces.list_by_subscription()] == [WORKSPACE]


def endpoints(client):
    body = {"location": "eastus", "tags": {"a": "b"}, "properties": {"authMode": "Key", "description": "x"}}
    e = client.online_endpoints.begin_create_or_update(GROUP, WORKSPACE, NAME, body).result()
    assert (e.name, e.location, e.tags) == (NAME, "eastus", {"a": "b"}), e
    e = client.online_endpoints.begin_update(GROUP, WORKSPACE, NAME, {"tags": {"c": "d"}}).result()
    assert e.tags["c"] == "d", e.tags
    keys = client.online_endpoints.list_keys(GROUP, WORKSPACE, NAME)
    client.online_endpoints.begin_regenerate_keys(GROUP, WORKSPACE, NAME, {"keyType": "Primary"}).result()
    after = client.online_endpoints.list_keys(GROUP, WORKSPACE, NAME)
    assert after.primary_key != keys.primary_key and after.secondary_key == keys.secondary_key
    assert [x.name for x in client.online_endpoints.list(GROUP, WORKSPACE)] == [NAME]
    assert list(client.online_deployments.list(GROUP, WORKSPACE, NAME)) == []
    assert [d.name for d in client.datastores.list(GROUP, WORKSPACE)] == ["workspaceblobstore"]
    try:
        client.online_deployments.get(GROUP, WORKSPACE, NAME, "nobody")
    except ResourceNotFoundError as error:
        assert code(error) == "ResourceNotFound", error
    else:
        raise AssertionError("a deployment that is not there was found")
    return e.id


def main():
    credential = DefaultAzureCredential()
    client = MachineLearningServicesMgmtClient(credential, SUBSCRIPTION)
    workspaces(client)
    ml_client = MLClient(credential, SUBSCRIPTION, GROUP, WORKSPACE)
    if hasattr(client, "online_endpoints"):
        endpoint = endpoints(client)
    else:
        endpoint = ml_client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=NAME)).result().id
    observe(credential, endpoint)
    ml_client.online_endpoints.begin_delete(NAME).result()


def observe(credential, endpoint):
    monitor = MonitorManagementClient(credential, SUBSCRIPTION)
    names = [d.name.value for d in monitor.metric_definitions.list(endpoint)]
    assert {"RequestLatency", "RequestsPerMinute"} <= set(names), names
    try:
        list(monitor.autoscale_settings.list_by_resource_group(GROUP))
    except HttpResponseError as error:
        assert code(error) == "NotImplemented", error
    else:
        raise AssertionError("autoscale settings are listed")
    log = list(monitor.activity_logs.list(f"eventTimestamp ge '2020-01-01T00:00:00Z' and resourceUri eq '{endpoint}'"))
    assert log and {entry.resource_id.lower() for entry in log} == {endpoint.lower()}, log
    costs = CostManagementClient(credential).query.usage(
        endpoint,
        {
            "type": "ActualCost",
            "timeframe": "Custom",
            "timePeriod": {"from": "2026-01-01T00:00:00Z", "to": "2026-01-31T00:00:00Z"},
            "dataset": {"granularity": "None", "aggregation": {"sum": {"name": "PreTaxCost", "function": "Sum"}}},
        },
    )
    assert costs is None or costs.rows in ([], [[0, "USD"]]), costs.rows


if __name__ == "__main__":
    main()
