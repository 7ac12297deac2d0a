"""Reads from S3 as a program with the S3 connector for PyTorch does, which has Mountpoint's client and the AWS Common Runtime
inside: the credentials are those that it signs with. Commands come on stdin, one a line: "get" asks as every read does, "new"
starts over with a new client."""
import json
import os
import sys

from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client

client = None

for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        client = None
    try:
        client = client or MountpointS3Client(os.environ["AWS_REGION"], "driver", 5.0, 8 << 20, None, False, os.environ["S3_URL"], force_path_style=True)
        answer = {"Object": b"".join(client.get_object("bucket0", "key.csv")).decode()}
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), flush=True)
