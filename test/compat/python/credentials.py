"""Proves who DefaultAzureCredential is.

    python credentials.py MANAGEMENT_URL OBJECT_ID [refused]

Every audience that clients ask for must get a token of this principal, and the management API must take the token that
is for it. With `refused` no token may come.
"""

import base64
import json
import sys

import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import DefaultAzureCredential

AUDIENCES = (
    "https://management.azure.com",
    "https://management.core.windows.net/",
    "https://ml.azure.com",
    "https://storage.azure.com",
)
WORKSPACES = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/portico/providers/" + (
    "Microsoft.MachineLearningServices/workspaces?api-version=2024-04-01"
)


def claims(token):
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def main(management, object_id, refused=None):
    credential = DefaultAzureCredential()
    if refused:
        try:
            credential.get_token(AUDIENCES[0] + "/.default")
        except ClientAuthenticationError as e:
            assert "AADSTS" in e.message or "invalid_client" in e.message, e.message
            return
        raise AssertionError("a wrong secret got a token")
    for audience in dict.fromkeys((management, *AUDIENCES)):
        c = claims(credential.get_token(audience + "/.default").token)
        assert c["oid"] == object_id, c
        assert c["aud"].rstrip("/") == audience.rstrip("/"), c
        assert c["exp"] > c["iat"], c
    for audience in (management, AUDIENCES[0]):
        token = credential.get_token(audience + "/.default").token
        r = requests.get(management + WORKSPACES, headers={"Authorization": "Bearer " + token}, timeout=60)
        assert r.status_code == 200, r.text
        assert [w["name"] for w in r.json()["value"]] == ["default"], r.text
    r = requests.get(management + WORKSPACES, headers={"Authorization": "Bearer " + token[:-4] + "AAAA"}, timeout=60)
    assert r.status_code == 401, r.text
    assert r.headers["WWW-Authenticate"].startswith("Bearer "), r.headers


if __name__ == "__main__":
    main(*sys.argv[1:])
