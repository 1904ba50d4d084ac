"""A custom server as the SDK has it: an environment with routes, and the command in the deployment's properties.

    python custom.py FOLDER

FOLDER holds serve.py of examples/custom.
"""

import json
import sys
from pathlib import Path

from azure.ai.ml import MLClient
from azure.ai.ml.entities import CodeConfiguration, Environment, ManagedOnlineDeployment, ManagedOnlineEndpoint
from azure.identity import DefaultAzureCredential


def main(folder):
    ml_client = MLClient(DefaultAzureCredential(), "00000000-0000-0000-0000-000000000001", "portico", "default")
    ml_client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="words")).result()
    routes = {
        "liveness_route": {"path": "/health", "port": 8080},
        "readiness_route": {"path": "/health", "port": 8080},
        "scoring_route": {"path": "/v1/count", "port": 8080},
    }
    deployment = ManagedOnlineDeployment(
        name="blue",
        endpoint_name="words",
        environment=Environment(
            name="words",
            image="docker.io/example/words:1",
            inference_config=routes,
            conda_file={"name": "words", "dependencies": ["python"]},
        ),
        code_configuration=CodeConfiguration(code=folder, scoring_script="serve.py"),
        properties={"portico.command": "python3 serve.py --port {port}"},
        instance_type="Standard_DS3_v2",
        instance_count=1,
    )
    made = ml_client.online_deployments.begin_create_or_update(deployment).result()
    assert made.provisioning_state == "Succeeded", made
    assert made.properties["portico.command"] == "python3 serve.py --port {port}", made.properties
    kept = ml_client.environments.get("words", label="latest").inference_config
    assert kept.scoring_route.path == "/v1/count", kept
    endpoint = ml_client.online_endpoints.get("words")
    endpoint.traffic = {"blue": 100}
    endpoint = ml_client.online_endpoints.begin_create_or_update(endpoint).result()
    assert endpoint.scoring_uri.endswith("/v1/count"), endpoint.scoring_uri
    Path("request.json").write_text(json.dumps("one two two"))
    answer = ml_client.online_endpoints.invoke("words", request_file="request.json")
    assert json.loads(answer) == {'"one': 1, "two": 1, 'two"': 1}, answer
    ml_client.online_endpoints.begin_delete("words").result()


if __name__ == "__main__":
    main(*sys.argv[1:])
