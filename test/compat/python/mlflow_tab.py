"""The page's tab for MLflow models.

    python mlflow_tab.py COMPATIBILITY.MD FOLDER

FOLDER is a model that MLflow saved; it says whether the sum of two columns is above zero.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from azure.ai.ml import MLClient
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model
from azure.identity import DefaultAzureCredential


def main(page, folder):
    code = re.search(r"<!-- mlflow: deployment -->\n```python\n(.*?)```", Path(page).read_text(), re.S).group(1)
    shutil.copytree(folder, "mlflow-model")
    ml_client = MLClient(DefaultAzureCredential(), "00000000-0000-0000-0000-000000000001", "portico", "default")
    endpoint = ManagedOnlineEndpoint(name="fraud-detection-api")
    ml_client.online_endpoints.begin_create_or_update(endpoint).result()
    names = {"ManagedOnlineDeployment": ManagedOnlineDeployment, "Model": Model, "ml_client": ml_client}
    exec(compile(code, page, "exec"), names)
    assert names["deployment"].provisioning_state == "Succeeded", names["deployment"]
    request = {"input_data": {"columns": ["a", "b"], "index": [0, 1], "data": [[1, 2], [-1, -2]]}}
    Path("request.json").write_text(json.dumps(request))
    answer = ml_client.online_endpoints.invoke(
        "fraud-detection-api", request_file="request.json", deployment_name="mlflow"
    )
    assert json.loads(answer) == [1, 0], answer
    ml_client.online_endpoints.begin_delete("fraud-detection-api").result()


if __name__ == "__main__":
    main(*sys.argv[1:])
