"""Reads from S3 as a program with obstore does, or with delta-rs and an endpoint URL, which both have object_store inside: the
credentials are those that it signs with. Commands come on stdin, one a line: "get" asks as every read does, "new" starts over with a
new store."""
import json
import os
import sys

if os.path.exists("obstore"):
    import obstore
    from obstore.store import S3Store

    def opened():
        store = S3Store("bucket0", endpoint=os.environ["S3_URL"], client_options={"allow_http": True})
        return lambda: obstore.get(store, "key.csv").bytes()

else:
    from deltalake._internal import DeltaFileSystemHandler

    def opened():
        store = DeltaFileSystemHandler("s3://bucket0/", {"aws_endpoint_url": os.environ["S3_URL"], "aws_allow_http": "true"})
        return lambda: store.open_input_file("key.csv").read()


read = None

for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        read = None
    try:
        read = read or opened()
        answer = {"Object": bytes(read()).decode()}
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), flush=True)
