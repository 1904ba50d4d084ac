"""Assets and tokens as the SDK has them: local, named and latest models, YAML files, blobs of many blocks, downloads,
repeated commands, both token modes.

    python assets.py
"""

import hashlib
import json
from pathlib import Path

from azure.ai.ml import MLClient, load_environment, load_model, load_online_deployment, load_online_endpoint
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.entities import Environment, ManagedOnlineDeployment, ManagedOnlineEndpoint, Model
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential

SCRIPT = """import hashlib, json, os, pathlib

def init():
    global digests
    base = pathlib.Path(os.environ["AZUREML_MODEL_DIR"])
    digests = {str(p.relative_to(base)): hashlib.sha256(p.read_bytes()).hexdigest()
               for p in base.rglob("*") if p.is_file()}

def run(raw_data):
    return digests
"""
DEPLOYMENT = """$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json
name: {name}
endpoint_name: assets
model: {model}
code_configuration:
  code: src
  scoring_script: score.py
environment: {environment}
instance_type: Standard_DS3_v2
instance_count: 1
"""
BIG = 80 << 20  # bytes: above 64 MiB the client sends blocks in parallel


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write(path, content):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def connect():
    """Makes the client from the config.json that portico env --config-file writes."""
    return MLClient.from_config(DefaultAzureCredential())


def endpoint(client):
    write("endpoint.yml", "name: assets\nauth_mode: key\ndescription: from a file\ntags:\n  a: b\n")
    e = client.online_endpoints.begin_create_or_update(load_online_endpoint("endpoint.yml")).result()
    assert (e.description, e.tags) == ("from a file", {"a": "b"}), e


def deploy(client, name, model, environment):
    write(f"{name}.yml", DEPLOYMENT.format(name=name, model=model, environment=environment))
    client.online_deployments.begin_create_or_update(load_online_deployment(f"{name}.yml")).result()
    write("request.json", "{}")
    return json.loads(client.online_endpoints.invoke("assets", request_file="request.json", deployment_name=name))


def environments(client):
    write("conda.yaml", "name: plain\ndependencies:\n  - python\n")
    write("environment.yml", "name: plain\nimage: mcr.microsoft.com/azureml/minimal:latest\nconda_file: conda.yaml\n")
    first = client.environments.create_or_update(load_environment("environment.yml"))
    again = client.environments.create_or_update(
        Environment(name="plain", version=first.version, image=first.image, conda_file="./conda.yaml")
    )
    assert again.id == first.id, (again.id, first.id)
    got = client.environments.get("plain", label="latest")
    assert got.version == first.version, got
    assert [v.version for v in client.environments.list("plain")] == [first.version]


def models(client):
    one = write("one/model.bin", b"one")
    write("folder/a/b.txt", "b")
    write("folder/c.txt", "c")
    write("model.yml", "name: named\nversion: 1\npath: one/model.bin\ntype: custom_model\n")
    m = client.models.create_or_update(load_model("model.yml"))
    assert (m.name, m.version, m.type) == ("named", "1", AssetTypes.CUSTOM_MODEL), m
    m2 = client.models.create_or_update(Model(name="named", path="folder", description="the second"))
    assert m2.version == "2", m2.version
    assert client.models.get("named", label="latest").version == "2"
    assert sorted(v.version for v in client.models.list("named")) == ["1", "2"]
    assert "named" in [c.name for c in client.models.list()]
    # A version means the same bytes for ever.
    write("other/model.bin", b"other")
    try:
        client.models.create_or_update(Model(name="named", version="1", path="other/model.bin"))
    except Exception as e:  # the SDK looks for itself, and has an exception of its own
        print(type(e).__name__, e)
        assert "named" in str(e) and "version" in str(e).lower(), e
    else:
        raise AssertionError("version 1 was given other bytes")
    try:
        client.models.get("nothing", version="1")
    except ResourceNotFoundError as e:
        assert e.error.code == "ResourceNotFound", e
    else:
        raise AssertionError("a model that is not there was found")

    plain = "azureml:plain@latest"
    assert deploy(client, "file", "azureml:named:1", plain) == {"model.bin": digest(one)}
    want = {"folder/a/b.txt": digest("folder/a/b.txt"), "folder/c.txt": digest("folder/c.txt")}
    assert deploy(client, "latest", "azureml:named@latest", plain) == want
    # The same bytes by the place where they lie: a datastore path, and the id of the version's own location.
    by_path = client.models.create_or_update(
        Model(name="bypath", version="1", path=client.models.get("named", "2").path)
    )
    assert deploy(client, "path", f"azureml:{by_path.name}:{by_path.version}", plain) == want
    client.models.download("named", "2", download_path="back")
    found = {p.name: digest(p) for p in Path("back").rglob("*") if p.is_file()}
    assert found == {"b.txt": want["folder/a/b.txt"], "c.txt": want["folder/c.txt"]}, found


def big(client):
    """A model of many blocks arrives whole, and is not sent twice."""
    block = bytes(range(256)) * 4096
    path = Path("big.bin")
    with path.open("wb") as f:
        for i in range(BIG // len(block)):
            f.write(i.to_bytes(8, "big") + block[8:])
    m = client.models.create_or_update(Model(name="big", version="1", path="big.bin"))
    assert deploy(client, "big", f"azureml:{m.name}:{m.version}", "azureml:plain@latest") == {"big.bin": digest(path)}
    again = client.models.create_or_update(Model(name="big", version="1", path="big.bin"))
    assert again.id == m.id
    client.models.download("big", "1", download_path="bigback")
    assert [digest(p) for p in Path("bigback").rglob("big.bin")] == [digest(path)]


def repeated(client):
    """Commands that say the same twice change nothing."""
    before = client.online_deployments.get("file", "assets")
    client.online_deployments.begin_create_or_update(load_online_deployment("file.yml")).result()
    after = client.online_deployments.get("file", "assets")
    assert before.model == after.model and before.code_configuration.code == after.code_configuration.code
    # What was read can be sent again.
    client.online_deployments.begin_create_or_update(after).result()
    got = client.online_endpoints.get("assets")
    got.traffic = {"file": 100}
    client.online_endpoints.begin_create_or_update(got).result()
    again = client.online_endpoints.get("assets")
    assert again.traffic["file"] == 100, again.traffic
    client.online_endpoints.begin_create_or_update(again).result()


def registries(client):
    """References to registries are refused by name, not by accident."""
    d = ManagedOnlineDeployment(
        name="registry",
        endpoint_name="assets",
        model="azureml://registries/azureml/models/some/versions/1",
        instance_type="Standard_DS3_v2",
        instance_count=1,
    )
    try:
        client.online_deployments.begin_create_or_update(d).result()
    except HttpResponseError as e:
        assert "regist" in e.message.lower(), e
    else:
        raise AssertionError("a registry's model was deployed")


def tokens(client):
    """Both token modes: the SDK fetches the token by itself when it invokes."""
    for mode, name in (("aml_token", "by-aml-token"), ("aad_token", "by-aad-token")):
        e = ManagedOnlineEndpoint(name=name, auth_mode=mode)
        client.online_endpoints.begin_create_or_update(e).result()
        text = Path("file.yml").read_text().replace("endpoint_name: assets", f"endpoint_name: {name}")
        write("token.yml", text)
        client.online_deployments.begin_create_or_update(load_online_deployment("token.yml")).result()
        got = client.online_endpoints.get(name)
        got.traffic = {"file": 100}
        client.online_endpoints.begin_create_or_update(got).result()
        keys = client.online_endpoints.get_keys(name)
        assert keys.access_token.count(".") == 2, keys
        # The SDK keeps the deployment's name of an earlier invoke for all later ones, so this one names its own.
        answer = client.online_endpoints.invoke(name, request_file="request.json", deployment_name="file")
        assert list(json.loads(answer)) == ["model.bin"], answer
        client.online_endpoints.begin_delete(name).result()


def others(client):
    workspace = client.workspaces.get("default")
    assert workspace.location == "eastus", workspace.location
    assert [w.name for w in client.workspaces.list()] == ["default"]
    store = client.datastores.get_default()
    assert (store.name, store.type) == ("workspaceblobstore", "AzureBlob"), store
    assert [d.name for d in client.datastores.list()] == ["workspaceblobstore"]


def main():
    write("src/score.py", SCRIPT)
    client = connect()
    for step in (endpoint, environments, models, big, repeated, registries, others):
        print("---", step.__name__, flush=True)
        step(client)
    print("--- delete", flush=True)
    client.online_endpoints.begin_delete("assets").result()
    print("--- tokens", flush=True)
    tokens(client)
    assert list(client.online_endpoints.list()) == []


if __name__ == "__main__":
    main()
