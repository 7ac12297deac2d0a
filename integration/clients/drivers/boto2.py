"""Gets credentials as a program with boto 2 does. Commands come on stdin, one a line: "get" asks as signing
a request does, "new" starts over with a new connection."""
import json
import sys

from boto.provider import Provider

current = None

for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        current = None
    try:
        current = current or Provider("aws")
        if current.access_key:
            answer = {"AccessKeyId": current.access_key, "SecretAccessKey": current.secret_key, "SessionToken": current.security_token}
        else:
            current, answer = None, {"Error": "no credentials"}
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), flush=True)
