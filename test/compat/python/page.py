"""Runs the code of docs/compatibility.md, block by block, in the order in which it stands there.

    python page.py COMPATIBILITY.MD RESULT.JSON [intercepted|redirected]

The folder it runs in must be empty; the files of the page are made in it. Between two blocks this program looks at what
they did. It changes nothing but the placeholders of the page and hour-long sleeps. RESULT.JSON lists the blocks that
ran and what the Go test needs to go on; a block that fails ends the program.
"""

import base64
import json
import math
import os
import re
import sys
import time
from pathlib import Path

BLOCK = re.compile(r"<!-- (file|page|shell): ([^,\n]+?)(, intercept only)? -->\n```\w+\n(.*?)```", re.S)
PLACEHOLDERS = {
    "<subscription-id>": "00000000-0000-0000-0000-000000000001",
    "<resource-group>": "portico",
    "<workspace>": "default",
}
HOUR = 3600
IRIS = [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3], [5.7, 2.8, 4.1, 1.3]]


def read(page):
    """Gives the blocks of the page: (kind, name, intercept only, text)."""
    blocks = [(kind, name, bool(only), text) for kind, name, only, text in BLOCK.findall(Path(page).read_text())]
    if not blocks:
        raise SystemExit(f"{page} holds no blocks")
    return blocks


def train():
    """Makes the two models of the page and gives them."""
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    x, y = load_iris(return_X_y=True)
    models = {}
    for folder, model in (
        ("model", LogisticRegression(max_iter=1000)),
        ("green", RandomForestClassifier(n_estimators=10, random_state=7)),
    ):
        Path(folder).mkdir()
        models[folder] = model.fit(x, y)
        joblib.dump(model, Path(folder, "model.pkl"))
    return models


class Sleeps:
    """Lets the page's hours pass at once, and every shorter sleep as it is."""

    def __init__(self):
        self.real = time.sleep
        self.skipped = 0

    def __call__(self, seconds):
        if seconds >= HOUR:
            self.skipped += 1
        else:
            self.real(seconds)


def decoded(answer):
    """Reads an answer of score.py: run gives a text (json.dumps), which the inference server sends as a JSON string."""
    answer = json.loads(answer)
    return json.loads(answer) if isinstance(answer, str) else answer


def check_prediction(answer, model, version):
    """Compares an answer of score.py with what the model says here."""
    answer = decoded(answer)
    assert answer["predictions"] == model.predict(IRIS).tolist(), answer
    for got, want in zip(answer["probabilities"], model.predict_proba(IRIS).tolist()):
        assert all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(got, want)), (got, want)
    assert answer["model_version"] == version, answer
    assert answer["latency_ms"] >= 0


def live(endpoint):
    """Gives the traffic without the zeros that some versions of the SDK add for deployments that have none."""
    return {name: share for name, share in endpoint.traffic.items() if share}


class Checks:
    """What must hold after each block; a method a block."""

    def __init__(self, names, models, mode, sleeps):
        self.names, self.models, self.mode, self.sleeps = names, models, mode, sleeps
        self.scored = 0

    def score(self, count=1, deployment=None):
        """Sends requests as the page's own code does and gives the answers' deployments."""
        import requests

        served = []
        headers = dict(self.names["headers"])
        if deployment:
            headers["azureml-model-deployment"] = deployment
        with requests.Session() as session:
            for _ in range(count):
                r = session.post(self.names["endpoint"].scoring_uri, headers=headers, json={"features": IRIS})
                assert r.status_code == 200, (r.status_code, r.text)
                served.append(r.headers["azureml-model-deployment"])
                self.scored += 1
        return served

    def endpoint(self):
        e = self.names["endpoint"]
        assert e.provisioning_state == "Succeeded", e.provisioning_state
        assert e.tags == {"environment": "production", "team": "ml-ops", "cost-center": "engineering"}, e.tags
        assert e.description == "Real-time fraud detection endpoint"
        if self.mode == "intercepted":
            assert e.scoring_uri == "https://fraud-detection-api.eastus.inference.ml.azure.com/score", e.scoring_uri
            assert e.openapi_uri == "https://fraud-detection-api.eastus.inference.ml.azure.com/swagger.json"

    def deployment(self):
        d = self.names["deployment"]
        assert (d.provisioning_state, d.instance_count, d.instance_type) == ("Succeeded", 2, "Standard_DS3_v2")
        assert d.request_settings.request_timeout_ms == 90000
        assert d.request_settings.max_concurrent_requests_per_instance == 3
        assert d.liveness_probe.failure_threshold == 3, d.liveness_probe
        assert d.readiness_probe.success_threshold == 1, d.readiness_probe
        assert d.environment_variables["MODEL_VERSION"] == "1.2.0"

    def traffic(self):
        assert self.names["endpoint"].traffic == {"blue": 100}, self.names["endpoint"].traffic

    def invoke(self):
        check_prediction(self.names["response"], self.models["model"], "1.2.0")
        self.scored += 1

    def rest(self):
        response = self.names["response"]
        assert response.status_code == 200, response.text
        check_prediction(response.text, self.models["model"], "1.2.0")
        assert response.headers["azureml-model-deployment"] == "blue"
        self.scored += 1
        assert self.names["keys"].primary_key != self.names["keys"].secondary_key

    def mirror(self):
        got = self.names["ml_client"].online_endpoints.get("fraud-detection-api")
        assert (live(got), got.mirror_traffic) == ({"blue": 100}, {"green": 10}), got
        # One in ten is copied: that none of 200 is has a chance below 1e-9.
        assert set(self.score(200)) == {"blue"}
        for _ in range(300):
            logs = self.names["ml_client"].online_deployments.get_logs("green", "fraud-detection-api", lines=500)
            if "Processed 3 samples" in logs:
                return
            time.sleep(0.1)
        raise AssertionError("green got no copy of a request:\n" + logs)

    def rollout(self):
        assert self.sleeps.skipped == 2, self.sleeps.skipped
        client = self.names["ml_client"]
        got = client.online_endpoints.get("fraud-detection-api")
        assert live(got) == {"green": 100}, got.traffic
        assert not got.mirror_traffic, got.mirror_traffic
        assert [d.name for d in client.online_deployments.list("fraud-detection-api")] == ["green"]
        assert set(self.score(5)) == {"green"}

    def autoscale(self):
        self.not_implemented(self.names["autoscale_answer"], "autoscale")

    def logs(self):
        logs = self.names["logs"]
        assert "Model loaded: version unknown" in logs, logs
        assert "Processed 3 samples in" in logs, logs
        assert self.names["initializer_logs"].strip(), "the storage initializer's log is empty"

    def metrics(self):
        """The page's query answers, and the service's count is the client's own."""
        from azure.monitor.query import MetricAggregationType

        metrics = {m.name: m for m in self.names["metrics"].metrics}
        assert sorted(metrics) == ["RequestLatency", "RequestsPerMinute"], metrics
        latency = [p.average for s in metrics["RequestLatency"].timeseries for p in s.data if p.average is not None]
        assert latency and all(ms > 0 for ms in latency), latency
        counts = self.names["metrics_client"].query_resource(
            self.names["resource_id"],
            metric_names=["RequestsPerMinute"],
            timespan=self.names["timedelta"](hours=2),
            aggregations=[MetricAggregationType.TOTAL],
            filter="deployment eq '*' and statusCodeClass eq '*'",
        )
        totals = {}
        for series in counts.metrics[0].timeseries:
            key = tuple(sorted((str(k).lower(), v) for k, v in series.metadata_values.items()))
            totals[key] = sum(p.total or 0 for p in series.data)
        assert sum(totals.values()) == self.scored, (totals, self.scored)
        assert {dict(k)["statuscodeclass"] for k in totals} == {"2xx"}, totals

    def identity(self):
        e = self.names["secure_endpoint"]
        assert e.auth_mode == "aml_token", e.auth_mode
        assert e.identity.type.lower() in ("system_assigned", "systemassigned"), e.identity.type
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", e.identity.principal_id), e.identity
        token = self.names["token"]
        body = token.access_token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        assert (claims["aud"], claims["iss"], claims["endpointName"]) == ("azureml", "azureml", "secure-endpoint")
        assert abs(token.expiry_time_utc - time.time() - 24 * HOUR) < 300, token.expiry_time_utc
        assert abs(token.refresh_after_time_utc - time.time() - 12 * HOUR) < 300

    def private(self):
        self.not_implemented(self.names["private_answer"], "publicNetworkAccess")

    def keys(self):
        before = self.names["keys"]
        after = self.names["ml_client"].online_endpoints.get_keys("fraud-detection-api")
        assert after.primary_key != before.primary_key
        assert after.secondary_key == before.secondary_key
        import requests

        uri = self.names["endpoint"].scoring_uri
        r = requests.post(uri, headers=self.names["headers"], json={"features": IRIS})
        assert r.status_code == 401, "the key that was regenerated still opens the endpoint"
        self.names["headers"]["Authorization"] = f"Bearer {after.primary_key}"
        self.score()

    def encryption(self):
        answer = self.names["encryption_answer"]
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "NotImplemented"), answer.text
        assert "encryption" in error["message"], error

    def cost(self):
        costs = self.names["costs"]
        assert [c.name for c in costs.columns][-1] == "Currency", costs.columns
        for row in costs.rows:
            assert len(row) == len(costs.columns), row

    def cleanup(self):
        assert list(self.names["ml_client"].online_endpoints.list()) == []

    @staticmethod
    def not_implemented(error, name):
        assert error.error.code == "NotImplemented", error
        assert name.lower() in error.message.lower(), error.message


def main(page, result, mode):
    blocks = read(page)
    models = train()
    names = {"__name__": "__main__"}
    sleeps = time.sleep = Sleeps()
    checks = Checks(names, models, mode, sleeps)
    ran, shell = [], {}
    for kind, name, intercept_only, text in blocks:
        if kind == "file":
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            continue
        if kind == "shell":
            shell = {"KEY": names["keys"].primary_key, "URI": names["endpoint"].scoring_uri}
            check_curl(text, shell)
            checks.scored += 1
            ran.append(name)
            continue
        if intercept_only and mode != "intercepted":
            continue
        for placeholder, value in PLACEHOLDERS.items():
            text = text.replace(placeholder, value)
        print(f"--- {name}", flush=True)
        exec(compile(text, f"{page}: {name}", "exec"), names)
        getattr(checks, name)()
        ran.append(name)
    Path(result).write_text(json.dumps({"blocks": ran, "scored": checks.scored}))


def check_curl(text, variables):
    """Runs the page's curl line and looks at its prediction."""
    import subprocess

    done = subprocess.run(
        ["bash", "-c", text], env={**os.environ, **variables}, capture_output=True, text=True, check=True, timeout=120
    )
    assert decoded(done.stdout)["predictions"] == [0], done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
