"""Reads from S3 as a program with OpenDAL does: the credentials are those that it signs with. Commands come on stdin, one a line:
"get" asks as every read does, "new" starts over with a new operator."""
import json
import os
import sys

import opendal

operator = None

for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        operator = None
    try:
        operator = operator or opendal.Operator("s3", bucket="bucket0", endpoint=os.environ["S3_URL"], region=os.environ["AWS_REGION"])
        answer = {"Object": bytes(operator.read("key.csv")).decode()}
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), flush=True)
