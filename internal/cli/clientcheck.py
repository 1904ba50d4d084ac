"""Tries the Python clients of Azure that are installed, and prints one JSON object a line for each.

Arguments: the id of the workspace to read, the base URL of the management API. Everything else a client takes from
the environment, as it would in a user's program.
"""

import importlib.metadata
import json
import logging
import os
import sys
import urllib.request


def version(package):
    """The version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def attempt(client, release, work):
    """Runs one trial and tells how it went."""
    out = {"client": client, "version": release, "found": "", "error": ""}
    try:
        out["found"] = work()
    except Exception as e:  # whatever it is, the user wants to read it
        out["error"] = f"{type(e).__name__}: {e}"
    print(json.dumps(out), flush=True)


def identity_token():
    """A token as a managed identity asks for it, with nothing but the standard library."""
    url = os.environ["IDENTITY_ENDPOINT"] + "?api-version=2019-08-01&resource=https://management.azure.com"
    request = urllib.request.Request(url, headers={"X-IDENTITY-HEADER": os.environ["IDENTITY_HEADER"]})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["access_token"]


def read_workspace(url, token):
    """The id that the server gave the workspace: proof of who answered."""
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["properties"]["workspaceId"]


def with_requests(url):
    import requests

    answer = requests.get(url, headers={"Authorization": "Bearer " + identity_token()}, timeout=30)
    answer.raise_for_status()
    return answer.json()["properties"]["workspaceId"]


def with_identity(url):
    from azure.identity import DefaultAzureCredential

    return read_workspace(url, DefaultAzureCredential().get_token("https://management.azure.com/.default").token)


def with_sdk(workspace):
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    part = workspace.split("/")
    client = MLClient(DefaultAzureCredential(), part[2], part[4], part[8])
    return client.workspaces.get(part[8])._workspace_id


def main():
    logging.disable(logging.CRITICAL)
    workspace, base = sys.argv[1:3]
    url = base + workspace + "?api-version=2024-04-01"
    attempt("python", ".".join(map(str, sys.version_info[:3])), lambda: read_workspace(url, identity_token()))
    for package, work in (
        ("requests", lambda: with_requests(url)),
        ("azure-identity", lambda: with_identity(url)),
        ("azure-ai-ml", lambda: with_sdk(workspace)),
    ):
        release = version(package)
        if release is None:
            print(json.dumps({"client": package, "version": "", "found": "", "error": ""}), flush=True)
        else:
            attempt(package, release, work)


main()
