"""A scoring script that uses ManagedIdentityCredential, deployed by the SDK.

python instance.py MANAGEMENT_URL
"""

import json
import sys
from pathlib import Path

import jwt
import requests
from azure.ai.ml import MLClient
from azure.ai.ml.entities import (
    CodeConfiguration,
    Environment,
    IdentityConfiguration,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
)
from azure.identity import DefaultAzureCredential

SCRIPT = """import json
from azure.identity import ManagedIdentityCredential

def init():
    global credential
    credential = ManagedIdentityCredential()

def run(raw_data):
    return {"token": credential.get_token(json.loads(raw_data)["scope"]).token}
"""
RESOURCE = "https://vault.example.com"


def main(management):
    Path("src").mkdir()
    Path("src/score.py").write_text(SCRIPT)
    Path("conda.yaml").write_text(
        "name: identity\ndependencies:\n  - python\n  - pip\n  - pip:\n      - azure-identity==1.27.0\n"
    )
    client = MLClient(DefaultAzureCredential(), "00000000-0000-0000-0000-000000000001", "portico", "default")
    e = ManagedOnlineEndpoint(name="with-identity", identity=IdentityConfiguration(type="SystemAssigned"))
    e = client.online_endpoints.begin_create_or_update(e).result()
    d = ManagedOnlineDeployment(
        name="blue",
        endpoint_name="with-identity",
        code_configuration=CodeConfiguration(code="./src", scoring_script="score.py"),
        environment=Environment(image="mcr.microsoft.com/azureml/minimal:latest", conda_file="./conda.yaml"),
        instance_type="Standard_DS3_v2",
        instance_count=1,
    )
    client.online_deployments.begin_create_or_update(d).result()
    Path("request.json").write_text(json.dumps({"scope": RESOURCE + "/.default"}))
    answer = client.online_endpoints.invoke("with-identity", request_file="request.json", deployment_name="blue")
    token = json.loads(answer)["token"]
    # Anyone can verify it: the issuer leads to its keys.
    issuer = jwt.decode(token, options={"verify_signature": False})["iss"]
    document = requests.get(issuer + "/.well-known/openid-configuration", timeout=60).json()
    assert document["issuer"] == issuer, document
    key = jwt.PyJWKSet.from_dict(requests.get(document["jwks_uri"], timeout=60).json())
    kid = jwt.get_unverified_header(token)["kid"]
    claims = jwt.decode(token, key[kid].key, algorithms=["RS256"], audience=RESOURCE, issuer=issuer)
    assert claims["oid"] == e.identity.principal_id, (claims, e.identity.principal_id)
    # It is the endpoint's, not a person's: it opens nothing here.
    url = f"{management}{e.id}?api-version=2024-04-01"
    r = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert r.status_code == 401, r.text
    client.online_endpoints.begin_delete("with-identity").result()


if __name__ == "__main__":
    main(*sys.argv[1:])
