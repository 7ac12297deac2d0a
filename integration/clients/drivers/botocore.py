"""Gets credentials as a program with botocore or boto3 does. Commands come on stdin, one a line: "get"
asks as signing a request does, "read" reads an object, "new" starts over with a new session."""
import json
import os
import random
import sys

import botocore.session

# Its provider for EC2 takes what expires within 15 minutes, and 2 to 10 more at random, to last that long, so that it does not ask
# a service that has nothing newer. Here all sessions are shorter. Without the random part, it asks again before each use.
random.randint = lambda least, most: 0

session = credentials = client = None


def ask():
    global session, credentials
    session = session or botocore.session.Session()
    credentials = credentials or session.get_credentials()
    if credentials is None:
        session = None
        return {"Error": "Unable to locate credentials"}
    c = credentials.get_frozen_credentials()
    return {"AccessKeyId": c.access_key, "SecretAccessKey": c.secret_key, "SessionToken": c.token}


def read():
    global client
    client = client or botocore.session.Session().create_client("s3", endpoint_url=os.environ["S3_URL"])
    return {"Object": client.get_object(Bucket="bucket0", Key="key.csv")["Body"].read().decode()}


for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        session = credentials = None
    try:
        answer = read() if line.strip() == "read" else ask()
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), flush=True)
