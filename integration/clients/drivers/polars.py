"""Reads from S3 as a program with Polars does: the credentials are those that it signs with. Commands come on
stdin, one a line: "get" asks as every read does, "new" starts over with a new store."""
import json
import os
import sys

import polars

stores = 0

for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        stores += 1
    try:
        table = polars.scan_csv(
            f"s3://bucket{stores}/key.csv",
            storage_options={"aws_endpoint_url": os.environ["S3_URL"], "aws_allow_http": "true"},
        ).collect()
        answer = {"Object": table.write_csv()}
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), flush=True)
