"""Gets credentials as a program with minio-py does. Commands come on stdin, one a line: "get" asks as
signing a request does, "new" starts over with a new provider."""
import json
import sys

from minio.credentials import IamAwsProvider

provider = None

for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        provider = None
    try:
        provider = provider or IamAwsProvider()
        c = provider.retrieve()
        answer = {"AccessKeyId": c.access_key, "SecretAccessKey": c.secret_key, "SessionToken": c.session_token}
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), flush=True)
