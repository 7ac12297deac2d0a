"""Gets credentials as a program with botocore or boto3 does. Commands come on stdin, one a line: "get"
asks as signing a request does, "new" starts over with a new session."""
import json
import sys

import botocore.session

current = None


def ask():
    global current
    if current is None:
        current = botocore.session.Session().get_credentials()
    if current is None:
        return {"Error": "Unable to locate credentials"}
    c = current.get_frozen_credentials()
    return {"AccessKeyId": c.access_key, "SecretAccessKey": c.secret_key, "SessionToken": c.token}


for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        current = None
    try:
        answer = ask()
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), flush=True)
