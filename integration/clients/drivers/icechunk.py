"""Reads from S3 as a program with Icechunk does, which has the AWS SDK for Rust inside: the credentials are those that it signs
with. Commands come on stdin, one a line: "get" asks as every read does, "new" starts over with a new client."""
import json
import os
import sys

import icechunk
import zarr

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # where it logs

array = None


def opened():
    """The object's 8 bytes, as an array of which the rest is in memory."""
    config = icechunk.RepositoryConfig.default()
    one = icechunk.StorageConcurrencySettings(max_concurrent_requests_for_object=1, ideal_concurrent_request_size=1000)
    config.storage = icechunk.StorageSettings(concurrency=one)
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(
            "s3://bucket0/",
            icechunk.s3_store(region=os.environ["AWS_REGION"], endpoint_url=os.environ["S3_URL"], allow_http=True, force_path_style=True),
        )
    )
    repository = icechunk.Repository.create(
        icechunk.in_memory_storage(),
        config=config,
        authorize_virtual_chunk_access=icechunk.containers_credentials({"s3://bucket0/": icechunk.s3_credentials(from_env=True)}),
    )
    store = repository.writable_session("main").store
    array = zarr.create_array(store, name="object", shape=(8,), chunks=(8,), dtype="u1", compressors=None, filters=None)
    store.set_virtual_ref("object/c/0", "s3://bucket0/key.csv", offset=0, length=8)
    return array


for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        array = None
    try:
        array = opened() if array is None else array
        answer = {"Object": array[:].tobytes().decode()}
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), file=answers, flush=True)
