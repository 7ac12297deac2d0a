"""Reads from S3 as a program with DuckDB does, which has the AWS SDK for C++ in its extension: the credentials are those that it
signs with. Commands come on stdin, one a line: "get" asks as every read does, "new" starts over with a new database."""
import glob
import json
import os
import sys
from urllib.parse import urlsplit

import duckdb

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # where the SDK logs

database = None


def opened():
    database = duckdb.connect()
    for extension in ("httpfs", "aws"):
        database.load_extension(glob.glob(f"duckdb_extension_{extension}/**/*.duckdb_extension", recursive=True)[0])
    database.execute(
        "CREATE SECRET (TYPE s3, PROVIDER credential_chain, REFRESH auto, USE_SSL false, URL_STYLE path, ENDPOINT '%s')"
        % urlsplit(os.environ["S3_URL"]).netloc
    )
    return database


for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        database = None
    try:
        database = database or opened()
        answer = {"Object": database.execute("SELECT content FROM read_text('s3://bucket0/key.csv')").fetchone()[0]}
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), file=answers, flush=True)
